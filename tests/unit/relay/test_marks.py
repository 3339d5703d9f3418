"""When a shard's cycle says that a backlog is being drained, so that inference makes way."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from outbox.rows import Lease, PendingRow
from relay.errors import UnavailableError
from relay.marks import FREE_SECONDS, HELD_SECONDS, RUSH_SECONDS, Marks
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


def test_a_drain_without_end_leaves_the_calls_a_tenth_of_the_time() -> None:
    """They make way for most of a minute, then have a few seconds; a moment's breath of a shard changes nothing."""
    now = [1000.0]
    marks = Marks(lambda: now[0])
    turns = []
    for second in range(3 * 60):
        now[0] = 1000.0 + second
        marks.marked(0, full=True)
        turns.append(marks.rushing())
        marks.keeps_up(0)
        assert not marks.rushing()
    held, free = round(HELD_SECONDS), round(FREE_SECONDS)
    assert turns == ([True] * held + [False] * free) * 3


def test_a_new_drain_is_made_way_for_from_its_beginning() -> None:
    """However long the one before it was, if the shards kept up in between."""
    now = [1000.0]
    marks = Marks(lambda: now[0])
    for second in (*range(50), 58):
        now[0] = 1000.0 + second
        marks.marked(0, full=True)
        assert marks.rushing()


def test_a_shard_that_stands_still_is_not_made_way_for() -> None:
    """Its last full batch is long ago, whatever holds it."""
    now = [1000.0]
    marks = Marks(lambda: now[0])
    marks.marked(0, full=True)
    now[0] += RUSH_SECONDS - 1
    assert marks.rushing()
    now[0] += 1
    assert not marks.rushing()
