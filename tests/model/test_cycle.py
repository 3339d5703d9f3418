"""One cycle of a shard, on an in-memory broker: what remains to be sent, and when it drains a backlog."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.errors import BatchRefusedError, RelayError
from relay.shard.takeover import Takeover
from relay.shard.worker import Remaining, ShardWorker
from testkit.rows import new_rows
from tests.model.broker import Broker
from tests.model.clients import Fault
from tests.model.simulated_relay import PROGRESS_TOPIC, TOPIC, SimulatedRelay

BATCH = 10


class Shard:
    """An owned shard that runs one cycle at a time."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        relay = SimulatedRelay(engine, broker, set(), BATCH, block_behind_parked=True)
        self.link = relay.link
        self.store, self.drain_signal, self.sendable = Store(engine), DrainSignal(), BATCH
        self.topic_limits, self.now = broker.limits, 0.0
        services = replace(
            relay.services(),
            drain_signal=self.drain_signal,
            enrich=lambda rows: rows[: self.sendable],
            clock=lambda: self.now,
        )
        stop = threading.Event()
        self._worker = ShardWorker(0, services, stop)
        owned = Takeover(0, services, stop).take()
        assert owned is not None
        self._owned = owned
        self._worker.recover(owned)

    def cycle(self, new: int, sendable: int = BATCH, *, notified: bool = True) -> Remaining:
        """Run a cycle.

        Args:
            new: rows that are accepted before it.
            sendable: how many rows do not wait for CXone.
            notified: whether the shard is notified of further rows.
        """
        if new:
            self.store.record(new_rows(new))
        self.sendable = sendable
        return self._worker.cycle(self._owned, notified=notified)

    @property
    def healthy_at(self) -> float:
        """When the worker was last healthy."""
        return self._worker.healthy_at


@pytest.fixture
def shard(engine: Engine) -> Shard:
    """An owned shard of an empty outbox; the test runs once for each database."""
    broker = Broker()
    for topic in (TOPIC, PROGRESS_TOPIC):
        broker.create(topic)
    return Shard(engine, broker)


def test_no_rows_remain_after_a_batch_that_was_not_full(shard: Shard) -> None:
    """A full batch may leave rows."""
    assert [shard.cycle(BATCH - 1), shard.cycle(0)] == [Remaining.NONE, Remaining.NONE]
    assert [shard.cycle(BATCH), shard.cycle(0)] == [Remaining.MORE, Remaining.NONE]


def test_rows_may_remain_if_notifications_do_not_work(shard: Shard) -> None:
    """Nothing announces rows that are accepted during the cycle."""
    assert [shard.cycle(1, notified=False), shard.cycle(0, notified=False)] == [Remaining.MORE, Remaining.NONE]


def test_rows_that_wait_for_cxone_remain(shard: Shard) -> None:
    """Nothing announces CXone's answer: the next select follows at once if some rows were sent, soon if none was."""
    assert shard.cycle(2, sendable=0) is Remaining.WAITING
    assert shard.cycle(0, sendable=1) is Remaining.MORE
    assert [shard.cycle(0), shard.cycle(0)] == [Remaining.NONE, Remaining.NONE]


def test_a_shard_drains_from_a_full_batch_to_the_next_that_is_not_full(shard: Shard) -> None:
    """With fewer rows, or none, it has caught up."""
    for fewer in (BATCH - 1, 0):
        shard.cycle(BATCH)
        assert shard.drain_signal.is_draining()
        shard.cycle(fewer)
        assert not shard.drain_signal.is_draining()


@pytest.mark.parametrize("sendable", [0, BATCH // 2 - 1])
def test_a_shard_whose_rows_wait_for_cxone_does_not_drain(shard: Shard, sendable: int) -> None:
    """Inference calls need not be throttled for them, however many there are."""
    shard.cycle(BATCH)
    shard.cycle(BATCH, sendable)
    assert not shard.drain_signal.is_draining()


def test_a_shard_whose_commits_fail_does_not_drain(shard: Shard) -> None:
    """It selects full batches, but commits none."""
    shard.link.faults["commit"] = Fault.REQUEST_LOST
    with pytest.raises(RelayError):
        shard.cycle(BATCH)
    assert not shard.drain_signal.is_draining()


def test_a_shard_whose_batch_is_refused_is_healthy(shard: Shard) -> None:
    """Kafka would refuse the batch of another relay too, which would have to find the row at fault from the start."""
    shard.topic_limits[TOPIC] = 1
    shard.now = 60.0
    with pytest.raises(BatchRefusedError):
        shard.cycle(2)
    assert shard.healthy_at == shard.now


def test_a_shard_whose_commits_fail_is_not_healthy(shard: Shard) -> None:
    """Another relay may reach Kafka."""
    shard.now = 60.0
    shard.link.faults["commit"] = Fault.REQUEST_LOST
    with pytest.raises(RelayError):
        shard.cycle(2)
    assert shard.healthy_at == 0.0
