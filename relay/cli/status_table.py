"""The status of shards, as JSON fields and as a table."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from outbox.models import CallCounts, ShardStatus
from outbox.operators.format import escape, format_duration, format_shards, format_time, plural

COUNTS = ("pending", "waiting", "parked", "discarded")
HEADINGS = ("shard", "epoch", "lease", *COUNTS, "oldest", "rows/s", "drained in")
TOTAL = "total"


def shard_fields(shard: ShardStatus) -> dict[str, Any]:
    """Return a shard's status as the fields of its JSON. A shard whose lease has expired has no owner."""
    live = shard.owner is not None and shard.lease_remaining_ms > 0
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


def render_status(shards: list[ShardStatus], calls: CallCounts, width: int) -> Group:
    """Render the shards and their total; below, their owners and problems.

    The table fits 80 columns: owners and problems, which may be long, have lines of their own. On a narrower
    terminal each number has a line of its own, too.
    """
    fields = [shard_fields(shard) for shard in shards]
    rows = [*map(_cells, fields), _total_cells(fields)]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    table = _table(rows) if sum(widths) + len(widths) - 1 <= width else Text("\n".join(_blocks(rows)))
    lines = [*_by_shards(fields, _owner), *_by_shards(fields, _problem)]
    if calls.due or calls.parked:
        due = plural(calls.due, "call")
        lines.append(f"inference: {due} due, {calls.parked:,} parked (relay inference list --all)")
    return Group(table, *map(Text, map(escape, lines)))


def _table(rows: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if row is rows[-1] else None)
    return table


def _blocks(rows: list[list[str]]) -> Iterator[str]:
    """Yield each row as lines of name and value."""
    for shard, *values in rows:
        yield shard if shard == TOTAL else f"shard {shard}"
        yield from (f"  {name}: {value}" for name, value in zip(HEADINGS[1:], values, strict=True) if value)


def _cells(shard: dict[str, Any]) -> list[str]:
    return [
        str(shard["shard"]),
        str(shard["epoch"]),
        f"{shard['lease_remaining_ms'] / 1000:.0f}s" if shard["owner"] else "-",
        *(f"{shard[name]:,}" for name in COUNTS),
        format_duration(None if shard["oldest_age_ms"] is None else shard["oldest_age_ms"] / 1000),
        f"{shard['rows_per_second']:,.0f}" if shard["owner"] else "-",
        format_duration(shard["drained_in_seconds"]),
    ]


def _total_cells(shards: list[dict[str, Any]]) -> list[str]:
    owned = any(shard["owner"] for shard in shards)
    drains = [shard["drained_in_seconds"] for shard in shards]
    oldest_ms = max((shard["oldest_age_ms"] or 0 for shard in shards), default=0)
    return [
        TOTAL,
        "",
        "",
        *(f"{sum(shard[name] for shard in shards):,}" for name in COUNTS),
        format_duration(oldest_ms / 1000 or None),
        f"{sum(shard['rows_per_second'] for shard in shards):,.0f}" if owned else "-",
        format_duration(None if None in drains else max(drains, default=0)),
    ]


def _by_shards(shards: list[dict[str, Any]], describe: Callable[[dict[str, Any]], str]) -> Iterator[str]:
    """Yield each distinct description once, with the shards that it applies to."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for shard in shards:
        numbers[describe(shard)].append(shard["shard"])
    for description, described in numbers.items():
        if description:
            yield f"{format_shards(described)}: {description}"


def _owner(shard: dict[str, Any]) -> str:
    return f"owned by {shard['owner']}" if shard["owner"] else "no owner"


def _problem(shard: dict[str, Any]) -> str:
    if shard["paused_by"] is None:
        return shard["condition"] or ""
    until = f" until {format_time(shard['paused_until_ms'])}" if shard["paused_until_ms"] is not None else ""
    pause = f"paused by {shard['paused_by']}{until}: {shard['paused_reason']}"
    return f"{pause}; {shard['condition']}" if shard["condition"] else pause
