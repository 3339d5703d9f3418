"""The product's own ledger and relay, driven by Hypothesis through faults, and held against a plain reference.

What runs is the real code, from the statements to the publisher and the read-back; only the broker
is one in memory (``test_broker_contract`` shows that it does as the real one), and time is paced.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from structlog.testing import capture_logs

from testkit.databases import NewDatabase
from tests.model.assembly import clients_in_memory
from tests.model.delivery import Delivery
from tests.model.stage import Stage

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
"""Other examples at each run; ``make model``."""


@pytest.fixture
def stage(new_database: NewDatabase) -> Iterator[Stage]:
    """A database of either kind, and the relay's modules on the broker in memory."""
    with clients_in_memory() as clock, capture_logs():
        stage = Stage(new_database(), clock)
        yield stage
        stage.close()


@pytest.mark.timeout(7200)
def test_exactly_once_through_everything_that_may_happen(stage: Stage) -> None:
    """In any order of posts, relays' steps, faults and operators' decisions, and again when all is quiet."""
    machine: Any = lambda: Delivery(stage)  # noqa: E731 - it takes a factory as well as a class
    run_state_machine_as_test(machine, settings=DEEP if os.environ.get("MODEL_DEEP") else BOUNDED)
