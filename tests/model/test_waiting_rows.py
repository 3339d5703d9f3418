"""Rows that wait for CXone, and a batch that has become small: who waits holds up nobody else."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from outbox.models import PendingRow
from outbox.store import Store
from testkit.rows import new_row
from tests.model.assembly import PROGRESS_TOPIC, TOPIC, Relay, clients_in_memory
from tests.model.broker import Broker
from tests.model.clients import Fate

BATCH_ROWS = 8
STEPS = 400


class Enriching(Relay):
    """A relay whose rows may wait for CXone."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        super().__init__(engine, broker, set(), BATCH_ROWS, waiting=True)
        self.unknown: set[str] = set()
        self.enrich = self._known

    def _known(self, rows: list[PendingRow]) -> list[PendingRow]:
        return [row for row in rows if row.interaction_id not in self.unknown]


@pytest.fixture
def enriching(engine: Engine) -> Iterator[Enriching]:
    """The test runs once for each database."""
    with clients_in_memory() as clock:
        for topic in (TOPIC, PROGRESS_TOPIC):
            clock.broker.create(topic)
        relay = Enriching(engine, clock.broker)
        relay.start()
        yield relay
        relay.close()


def test_a_row_that_waits_at_the_head_of_a_small_batch_holds_up_no_other(enriching: Enriching, engine: Engine) -> None:
    """Failed transactions have shrunk it to one row; those behind are still looked at, as many as a batch may hold."""
    store = Store(engine)
    store.record([new_row("first"), *(new_row(f"later-{n}") for n in range(BATCH_ROWS - 1))])
    for _ in range(3):
        enriching.link.faults["append"] = Fate.REQUEST_LOST
        assert any(enriching.advance() == "leased" and not enriching.link.faults for _ in range(STEPS))
    enriching.unknown = {"first"}
    assert any(enriching.advance() and store.status()[0].pending == 1 for _ in range(STEPS))
    enriching.unknown = set()
    assert any(enriching.advance() and not store.status()[0].pending for _ in range(STEPS))
