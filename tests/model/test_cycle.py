"""One cycle of a shard, on the product's own parts and a broker in memory: what it leaves, and what is a drain."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from outbox.store import Store
from relay.drain_signal import Marks
from relay.errors import RelayError
from relay.shard.worker import Left, ShardWorker
from testkit.rows import new_rows
from tests.model.assembly import PROGRESS_TOPIC, TOPIC, Relay, clients_in_memory
from tests.model.broker import Broker
from tests.model.clients import Fate, Link

BATCH = 10


class Shard:
    """A shard in hand, to be told to make a cycle."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        place = Relay(engine, broker, set(), BATCH, waiting=True)
        place.owner, place.stop, self.link = "me", threading.Event(), Link(broker)  # type: ignore[assignment]
        place.link = self.link
        self.store, self.marks, self.sendable = Store(engine), Marks(), BATCH
        self.parts = replace(place._parts(), marks=self.marks, complete=lambda rows: rows[: self.sendable])
        self.parts.bell.heard = True
        self._worker = ShardWorker(0, self.parts)
        held = self._worker.take()
        assert held is not None
        self._held = held
        self._worker.settle(held)

    def cycle(self, come: int, sendable: int = BATCH) -> Left:
        """A cycle after so many rows came, of which so many may be sent as far as CXone is concerned."""
        if come:
            self.store.record(new_rows(come))
        self.sendable = sendable
        return self._worker._cycle(self._held)


@pytest.fixture
def shard(engine: Engine) -> Iterator[Shard]:
    """A shard with an empty outbox; the test runs once for each database."""
    with clients_in_memory() as clock:
        for topic in (TOPIC, PROGRESS_TOPIC):
            clock.broker.create(topic)
        yield Shard(engine, clock.broker)


def test_a_bell_that_is_heard_saves_a_look(shard: Shard) -> None:
    """Fewer rows than fit were all there were; a full batch may have left some."""
    assert [shard.cycle(BATCH - 1), shard.cycle(0)] == [Left.NONE, Left.NONE]
    assert [shard.cycle(BATCH), shard.cycle(0)] == [Left.MORE, Left.NONE]


def test_without_a_bell_a_shard_looks_again(shard: Shard) -> None:
    """Rows that came while others were sent are told by nobody."""
    shard.parts.bell.heard = False
    assert [shard.cycle(1), shard.cycle(0)] == [Left.MORE, Left.NONE]


def test_rows_that_wait_for_cxone_are_looked_for_again(shard: Shard) -> None:
    """No bell tells that CXone has answered: at once after some were sent, soon if none could be."""
    assert shard.cycle(2, sendable=0) is Left.SOME
    assert shard.cycle(0, sendable=1) is Left.MORE
    assert [shard.cycle(0), shard.cycle(0)] == [Left.NONE, Left.NONE]


def test_a_shard_that_sends_full_batches_drains_until_it_finds_fewer(shard: Shard) -> None:
    """A full batch is marked: there is more. Fewer, or none: it keeps up."""
    for fewer in (BATCH - 1, 0):
        shard.cycle(BATCH)
        assert shard.marks.rushing()
        shard.cycle(fewer)
        assert not shard.marks.rushing()


@pytest.mark.parametrize("sendable", [0, BATCH // 2 - 1])
def test_a_shard_whose_rows_wait_for_cxone_drains_nothing(shard: Shard, sendable: int) -> None:
    """However many wait, and for however long: inference need not make way for them."""
    shard.cycle(BATCH)
    shard.cycle(BATCH, sendable)
    assert not shard.marks.rushing()


def test_a_shard_that_kafka_takes_nothing_from_drains_nothing(shard: Shard) -> None:
    """It selects full batches again and again, and none is committed."""
    shard.link.faults["commit"] = Fate.REQUEST_LOST
    with pytest.raises(RelayError):
        shard.cycle(BATCH)
    assert not shard.marks.rushing()
