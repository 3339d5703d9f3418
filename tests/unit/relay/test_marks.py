"""When a shard's cycle says that a backlog is being drained, so that inference makes way."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from outbox.rows import Lease, PendingRow
from relay.errors import UnavailableError
from relay.marks import Marks
from relay.metrics import RelayMetrics
from relay.shard import Held, ShardWorker, ignore_steps

BATCH = 10


def cycle(marks: Marks, selected: int, sendable: int | None = None, publishes: object = None) -> None:
    """One cycle of a shard that selects so many rows, of which so many may be sent."""
    rows = [PendingRow(n, n, f"i-{n}", "voice", 0, None, None, None, None, 0) for n in range(1, selected + 1)]
    parts: Any = SimpleNamespace(
        store=Mock(**{"pending.return_value": rows}),
        encoder=Mock(),
        complete=lambda found: found[:sendable],
        batch_size=BATCH,
        parked_rows_hold=True,
        inference=True,
        outbox_id="0" * 32,
        metrics=RelayMetrics(CollectorRegistry()),
        marks=marks,
        step=ignore_steps,
    )
    publisher: Any = Mock(**{"publish.side_effect": publishes})
    ShardWorker(0, parts)._cycle(Held(Lease(0, "me", 1, 0), publisher, 0.0))


def test_a_shard_that_sends_full_batches_drains_until_it_finds_fewer() -> None:
    """A full batch is marked: there is more. Fewer, or none: it keeps up."""
    for fewer in (BATCH - 1, 0):
        marks = Marks()
        cycle(marks, BATCH)
        assert marks.rushing()
        cycle(marks, fewer)
        assert not marks.rushing()


def test_a_shard_whose_rows_wait_for_cxone_drains_nothing() -> None:
    """However many wait, and for however long: inference need not make way for them."""
    for sendable in (0, BATCH // 2 - 1):
        marks = Marks()
        cycle(marks, BATCH)
        cycle(marks, BATCH, sendable)
        assert not marks.rushing()


def test_a_shard_that_kafka_takes_nothing_from_drains_nothing() -> None:
    """It selects full batches again and again, and none is committed."""
    marks = Marks()
    with pytest.raises(UnavailableError):
        cycle(marks, BATCH, publishes=UnavailableError("Kafka is away"))
    assert not marks.rushing()
