"""The word for the outbox: a decision over what the database shows."""

from typing import Any

import pytest

from console.pages.health import HealthWord, judge
from outbox.models import CallCounts, ShardStatus

NO_CALLS = CallCounts(0, 0)
QUIET = ShardStatus(0, "relay-1", 1, 5_000, 7, 0.0, None, 0, 0, 0, 0, None, None, None, None)


def shard(**changes: Any) -> ShardStatus:
    """Return an owned shard without rows, with some values changed."""
    return QUIET._replace(**changes)


def test_an_owned_shard_without_problems_is_ok() -> None:
    """Pending rows alone are no problem."""
    assert judge([QUIET], NO_CALLS) == (HealthWord.OK, [])
    assert judge([shard(pending=9, oldest_age_ms=10)], CallCounts(5, 0)) == (HealthWord.OK, [])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (shard(owner=None), "no relay sends the rows"),
        (shard(lease_remaining_ms=0), "no relay sends the rows"),
        (shard(condition="the broker does not answer"), "the broker does not answer"),
        (shard(paused_by="ann", paused_reason="broker upgrade"), "paused by ann: broker upgrade"),
    ],
    ids=["free", "expired", "condition", "paused"],
)
def test_a_shard_that_does_not_send_is_stuck_once_it_has_rows(broken: ShardStatus, said: str) -> None:
    """Without rows to send the outbox is degraded; with some it is stuck, unless another shard with rows sends."""
    degraded = judge([broken], NO_CALLS)
    assert (degraded.word, [reason.text for reason in degraded.reasons]) == (HealthWord.DEGRADED, [said])
    assert all(reason.remedy for reason in degraded.reasons)
    with_rows = broken._replace(pending=3)
    assert judge([with_rows], NO_CALLS).word == HealthWord.STUCK
    assert judge([with_rows, shard(shard=1, pending=1)], NO_CALLS).word == HealthWord.DEGRADED
    assert judge([with_rows, shard(shard=1)], NO_CALLS).word == HealthWord.STUCK


def test_a_condition_of_a_shard_that_sends_is_degraded() -> None:
    """As when CXone does not answer: rows are sent without what it would add."""
    slow = shard(condition="enrichment: CXone does not answer", rows_per_second=5.0, pending=9)
    assert judge([slow], NO_CALLS).word == HealthWord.DEGRADED


def test_parked_rows_and_calls_are_degraded() -> None:
    """Rows that only wait behind parked ones do not make it stuck: an operator is needed, not a relay."""
    health = judge([shard(parked=1, pending=2, waiting=2, owner=None)], CallCounts(0, 4))
    assert health.word == HealthWord.DEGRADED
    assert [reason.text for reason in health.reasons][1:] == ["1 parked, 2 waiting behind them", "4 parked"]


def test_one_condition_of_several_shards_is_one_reason() -> None:
    """The reason names the shards."""
    health = judge([shard(condition="x"), shard(shard=1, condition="x"), shard(shard=2, condition="y")], NO_CALLS)
    assert [(reason.subject, reason.text) for reason in health.reasons] == [("shards 0, 1", "x"), ("shard 2", "y")]
