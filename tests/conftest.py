"""Fixtures of all tests: services, migrated databases of both kinds, and deployments."""

import hypothesis
import pytest

pytest_plugins = [
    "testkit.databases",
    "testkit.services.fixtures",
    "testkit.simulator.fixtures",
    "testkit.web_fixtures",
    "testkit.deployment",
    "testkit.inference_endpoint",
    "testkit.secure_kafka",
    "testkit.wheel",
]

hypothesis.settings.register_profile("no-deadline", deadline=None)  # a busy machine must not fail a test
hypothesis.settings.load_profile("no-deadline")
LONG_TESTS = (
    "tests/integration/test_bench.py",
    "tests/integration/test_incident.py",
    "tests/model/test_state_machine.py",
    "tests/faults/",
    "tests/breakages/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long tests first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG_TESTS))
