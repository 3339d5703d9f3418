"""The product's outbox and relay, driven through faults by Hypothesis, and compared with a reference model.

The real code runs, from the SQL statements to the publisher and the read-back. Only the broker is in memory
(``test_broker_contract`` shows that it behaves like a real one), and the relays run step by step.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from structlog.testing import capture_logs

from testkit.databases import NewDatabase
from tests.model.delivery_machine import DeliveryMachine
from tests.model.environment import Environment

BOUNDED = settings(
    derandomize=True,
    max_examples=100,
    stateful_step_count=30,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
DEEP = settings(BOUNDED, derandomize=False, max_examples=1000, stateful_step_count=60, print_blob=True)
"""Other examples at each run; used by ``make model``."""


@pytest.fixture
def environment(new_database: NewDatabase) -> Iterator[Environment]:
    """A database of either kind."""
    with capture_logs():
        environment = Environment(new_database())
        yield environment
        environment.close()


@pytest.mark.timeout(7200)
def test_every_row_is_delivered_exactly_once(environment: Environment) -> None:
    """In any order of posts, steps of the relays, faults and operators' decisions, and again at rest."""
    machine: Any = lambda: DeliveryMachine(environment)  # noqa: E731 - a factory is accepted as well
    run_state_machine_as_test(machine, settings=DEEP if os.environ.get("MODEL_DEEP") else BOUNDED)
