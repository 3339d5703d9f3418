"""Fixtures of every test: services, and fresh, migrated databases of both kinds."""

import hypothesis
import pytest

pytest_plugins = [
    "testkit.databases",
    "testkit.services.fixtures",
    "testkit.simulator.fixtures",
    "testkit.deployment",
    "testkit.web_fixtures",
    "testkit.wheel",
]

hypothesis.settings.register_profile("loaded", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("loaded")
LONG = (
    "tests/integration/test_bench.py",
    "tests/integration/test_incident.py",
    "tests/model/test_state_machine.py",
    "tests/faults/",
    "tests/breakages/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: they are handed out one by one, and at the end no worker is left with one of them alone."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
