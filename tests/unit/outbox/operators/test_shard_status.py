"""The status of shards as operators read it."""

from typing import Any

import pytest

from outbox.models import ShardStatus
from outbox.operators.shard_status import by_shards, format_owner, format_problem, shard_fields, total_fields

STATUS = ShardStatus(0, "relay-1", 7, 9_000, 10, 20.0, None, 250, 50, 3, 1, 60_000, None, None, None)


def fields(**values: Any) -> dict[str, Any]:
    """Return the fields of a shard with these values."""
    return shard_fields(STATUS._replace(**values))


def test_the_time_to_drain_does_not_count_rows_that_wait_behind_parked_ones() -> None:
    """It is unknown without a rate, and nothing takes no time."""
    assert fields()["drained_in_seconds"] == 10
    assert fields(rows_per_second=0.0)["drained_in_seconds"] is None
    assert fields(rows_per_second=0.0, pending=50)["drained_in_seconds"] == 0


def test_a_shard_whose_lease_has_expired_has_no_owner() -> None:
    """Nor a rate."""
    expired = fields(lease_remaining_ms=-1)
    assert (expired["owner"], expired["owner_live"], expired["rows_per_second"]) == (None, False, 0.0)
    assert expired["lease_remaining_ms"] == 0
    assert format_owner(expired) == "no owner"
    assert format_owner(fields()) == "owned by relay-1"


def test_shards_are_drained_when_the_last_one_is() -> None:
    """Rows and rates are added up; one unknown time makes the total unknown."""
    total = total_fields([fields(), fields(shard=1, rows_per_second=5.0, oldest_age_ms=None)])
    assert (total["pending"], total["rows_per_second"], total["oldest_age_ms"]) == (500, 25.0, 60_000)
    assert total["drained_in_seconds"] == 40
    assert total_fields([fields(), fields(lease_remaining_ms=0)])["drained_in_seconds"] is None
    assert total_fields([])["oldest_age_ms"] is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, ""),
        ({"condition": "no broker"}, "no broker"),
        ({"paused_by": "ann", "paused_reason": "upgrade"}, "paused by ann: upgrade"),
        (
            {"paused_by": "ann", "paused_reason": "upgrade", "condition": "no broker"},
            "paused by ann: upgrade; no broker",
        ),
    ],
)
def test_a_problem_names_pause_and_condition(values: dict[str, Any], text: str) -> None:
    """Either, both or neither."""
    assert format_problem(fields(**values)) == text


def test_shards_with_the_same_description_share_a_line() -> None:
    """A shard without one has no line."""
    shards = [fields(shard=number, condition=condition) for number, condition in enumerate(("a", None, "b", "a"))]
    assert list(by_shards(shards, format_problem)) == ["shards 0, 3: a", "shard 2: b"]
