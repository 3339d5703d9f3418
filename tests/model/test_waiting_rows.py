"""Rows that wait for CXone do not block other rows, even when batches have become small."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from outbox.models import PendingRow
from outbox.store import Store
from testkit.rows import new_row
from tests.model.broker import Broker
from tests.model.clients import Fault
from tests.model.simulated_relay import PROGRESS_TOPIC, TOPIC, SimulatedRelay

BATCH_ROWS = 8
STEPS = 400


class Enriching(SimulatedRelay):
    """A relay whose rows can wait for CXone."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        super().__init__(engine, broker, set(), BATCH_ROWS, block_behind_parked=True)
        self.unknown: set[str] = set()
        self.enrich = self._known

    def _known(self, rows: list[PendingRow]) -> list[PendingRow]:
        return [row for row in rows if row.interaction_id not in self.unknown]


@pytest.fixture
def enriching(engine: Engine) -> Iterator[Enriching]:
    """A running relay; the test runs once for each database."""
    broker = Broker()
    for topic in (TOPIC, PROGRESS_TOPIC):
        broker.create(topic)
    relay = Enriching(engine, broker)
    relay.start()
    yield relay
    relay.close()


def test_a_waiting_row_does_not_block_a_small_batch(enriching: Enriching, engine: Engine) -> None:
    """After failed transactions batches have one row, but the rows behind it are still selected."""
    store = Store(engine)
    store.record([new_row("first"), *(new_row(f"later-{n}") for n in range(BATCH_ROWS - 1))])
    for _ in range(3):
        enriching.link.faults["append"] = Fault.REQUEST_LOST
        assert any(enriching.advance() == "leased" and not enriching.link.faults for _ in range(STEPS))
    enriching.unknown = {"first"}
    assert any(enriching.advance() and store.status()[0].pending == 1 for _ in range(STEPS))
    enriching.unknown = set()
    assert any(enriching.advance() and not store.status()[0].pending for _ in range(STEPS))
