"""One cycle of a shard, on the product's own parts and a broker in memory: what it leaves, and what is a drain."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.errors import RelayError
from relay.shard.takeover import Takeover
from relay.shard.worker import Remaining, ShardWorker
from testkit.rows import new_rows
from tests.model.assembly import PROGRESS_TOPIC, TOPIC, Relay, clients_in_memory
from tests.model.broker import Broker
from tests.model.clients import Fate

BATCH = 10


class Shard:
    """A shard in hand, to be told to make a cycle."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        relay = Relay(engine, broker, set(), BATCH, waiting=True)
        self.link = relay.link
        self.store, self.drain_signal, self.sendable = Store(engine), DrainSignal(), BATCH
        self.services = replace(
            relay.services(), drain_signal=self.drain_signal, enrich=lambda rows: rows[: self.sendable]
        )
        self.services.listener.is_working = True
        stop = threading.Event()
        self._worker = ShardWorker(0, self.services, stop)
        owned = Takeover(0, self.services, stop).take()
        assert owned is not None
        self._owned = owned
        self._worker.recover(owned)

    def cycle(self, come: int, sendable: int = BATCH) -> Remaining:
        """A cycle after so many rows came, of which so many may be sent as far as CXone is concerned."""
        if come:
            self.store.record(new_rows(come))
        self.sendable = sendable
        return self._worker.cycle(self._owned)


@pytest.fixture
def shard(engine: Engine) -> Iterator[Shard]:
    """A shard with an empty outbox; the test runs once for each database."""
    with clients_in_memory() as clock:
        for topic in (TOPIC, PROGRESS_TOPIC):
            clock.broker.create(topic)
        yield Shard(engine, clock.broker)


def test_a_bell_that_is_heard_saves_a_look(shard: Shard) -> None:
    """Fewer rows than fit were all there were; a full batch may have left some."""
    assert [shard.cycle(BATCH - 1), shard.cycle(0)] == [Remaining.NONE, Remaining.NONE]
    assert [shard.cycle(BATCH), shard.cycle(0)] == [Remaining.MORE, Remaining.NONE]


def test_without_a_bell_a_shard_looks_again(shard: Shard) -> None:
    """Rows that came while others were sent are told by nobody."""
    shard.services.listener.is_working = False
    assert [shard.cycle(1), shard.cycle(0)] == [Remaining.MORE, Remaining.NONE]


def test_rows_that_wait_for_cxone_are_looked_for_again(shard: Shard) -> None:
    """No bell tells that CXone has answered: at once after some were sent, soon if none could be."""
    assert shard.cycle(2, sendable=0) is Remaining.WAITING
    assert shard.cycle(0, sendable=1) is Remaining.MORE
    assert [shard.cycle(0), shard.cycle(0)] == [Remaining.NONE, Remaining.NONE]


def test_a_shard_that_sends_full_batches_drains_until_it_finds_fewer(shard: Shard) -> None:
    """A full batch is marked: there is more. Fewer, or none: it keeps up."""
    for fewer in (BATCH - 1, 0):
        shard.cycle(BATCH)
        assert shard.drain_signal.is_draining()
        shard.cycle(fewer)
        assert not shard.drain_signal.is_draining()


@pytest.mark.parametrize("sendable", [0, BATCH // 2 - 1])
def test_a_shard_whose_rows_wait_for_cxone_drains_nothing(shard: Shard, sendable: int) -> None:
    """However many wait, and for however long: inference need not make way for them."""
    shard.cycle(BATCH)
    shard.cycle(BATCH, sendable)
    assert not shard.drain_signal.is_draining()


def test_a_shard_that_kafka_takes_nothing_from_drains_nothing(shard: Shard) -> None:
    """It selects full batches again and again, and none is committed."""
    shard.link.faults["commit"] = Fate.REQUEST_LOST
    with pytest.raises(RelayError):
        shard.cycle(BATCH)
    assert not shard.drain_signal.is_draining()
