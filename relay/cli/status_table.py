"""The status of shards as a table."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from outbox.models import CallCounts, ShardStatus, StoredVerdict
from outbox.operators.format import escape, format_duration, plural
from outbox.operators.shard_status import COUNTS, by_shards, format_owner, format_problem, shard_fields, total_fields
from outbox.operators.verification import format_stored

HEADINGS = ("shard", "epoch", "lease", *COUNTS, "oldest", "rows/s", "drained in")
TOTAL = "total"


def render_status(
    shards: list[ShardStatus], calls: CallCounts, width: int, verdict: StoredVerdict | None = None
) -> Group:
    """Render the shards and their total; below, their owners and problems, and the last verification.

    The table fits 80 columns: owners and problems, which may be long, have lines of their own. On a narrower
    terminal each number has a line of its own, too.
    """
    fields = [shard_fields(shard) for shard in shards]
    rows = [*map(_cells, fields), _total_cells(fields)]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    table = _table(rows) if sum(widths) + len(widths) - 1 <= width else Text("\n".join(_blocks(rows)))
    lines = [*by_shards(fields, format_owner), *by_shards(fields, format_problem)]
    if calls.due or calls.parked:
        due = plural(calls.due, "call")
        lines.append(f"inference: {due} due, {calls.parked:,} parked (relay inference list --all)")
    if verdict is not None:
        lines.append(f"topic: {format_stored(verdict)}")
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
    total = total_fields(shards)
    return [
        TOTAL,
        "",
        "",
        *(f"{total[name]:,}" for name in COUNTS),
        format_duration((total["oldest_age_ms"] or 0) / 1000 or None),
        f"{total['rows_per_second']:,.0f}" if total["owner_live"] else "-",
        format_duration(total["drained_in_seconds"]),
    ]
