"""Fixtures of all tests: services, migrated databases of both kinds, and deployments."""

import logging
from collections.abc import Iterator

import hypothesis
import pytest
import structlog
from structlog.stdlib import ProcessorFormatter

from config.logging import OWN_PACKAGES

pytest_plugins = [
    "testkit.databases",
    "testkit.services.fixtures",
    "testkit.simulator.fixtures",
    "testkit.web_fixtures",
    "testkit.deployment",
    "testkit.collector",
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


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Iterator[None]:
    """Undo what a test leaves that configures logging in this process: others read what is logged by default."""
    root = logging.getLogger()
    level = root.level
    yield
    if isinstance(structlog.get_config()["logger_factory"], structlog.stdlib.LoggerFactory):
        root.handlers[:] = [each for each in root.handlers if not isinstance(each.formatter, ProcessorFormatter)]
        root.setLevel(level)
        for name in OWN_PACKAGES:
            logging.getLogger(name).setLevel(logging.NOTSET)
        structlog.reset_defaults()
