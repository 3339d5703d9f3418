"""The status of shards as operators read it: owner, rate, time to drain, and what keeps a shard from being sent."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from outbox.models import ShardStatus
from outbox.operators.format import format_shards, format_time

COUNTS = ("pending", "waiting", "parked", "discarded")
"""Fields with a number of rows."""


def shard_fields(shard: ShardStatus) -> dict[str, Any]:
    """Return a shard's status as the fields of its JSON. A shard whose lease has expired has no owner."""
    live = shard.is_owned
    rate = shard.rows_per_second if live else 0.0
    return {
        **shard._asdict(),
        "owner": shard.owner if live else None,
        "owner_live": live,
        "lease_remaining_ms": shard.lease_remaining_ms if live else 0,
        "rows_per_second": rate,
        "drained_in_seconds": _drain_seconds(shard.pending - shard.waiting, rate),
    }


def _drain_seconds(rows: int, rate: float) -> int | None:
    if not rows:
        return 0
    return round(rows / rate) if rate else None


def total_fields(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the total of shards, of which each is given as its fields.

    They are drained when the last one is. None stands for a time that is not known, or for the age of no row.
    """
    ages = [shard["oldest_age_ms"] for shard in shards if shard["oldest_age_ms"] is not None]
    drains = [shard["drained_in_seconds"] for shard in shards]
    return {
        **{name: sum(shard[name] for shard in shards) for name in COUNTS},
        "owner_live": any(shard["owner"] for shard in shards),
        "oldest_age_ms": max(ages, default=None),
        "rows_per_second": sum(shard["rows_per_second"] for shard in shards),
        "drained_in_seconds": None if None in drains else max(drains, default=0),
    }


def by_shards(shards: list[dict[str, Any]], describe: Callable[[dict[str, Any]], str]) -> Iterator[str]:
    """Yield each distinct description once, with the shards that it applies to."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for shard in shards:
        numbers[describe(shard)].append(shard["shard"])
    for description, described in numbers.items():
        if description:
            yield f"{format_shards(described)}: {description}"


def format_owner(shard: dict[str, Any]) -> str:
    """Say who sends a shard."""
    return f"owned by {shard['owner']}" if shard["owner"] else "no owner"


def format_problem(shard: dict[str, Any]) -> str:
    """Say why a shard is not sent: its pause and its condition; empty if neither is known."""
    if shard["paused_by"] is None:
        return shard["condition"] or ""
    until = f" until {format_time(shard['paused_until_ms'])}" if shard["paused_until_ms"] is not None else ""
    pause = f"paused by {shard['paused_by']}{until}: {shard['paused_reason']}"
    return f"{pause}; {shard['condition']}" if shard["condition"] else pause
