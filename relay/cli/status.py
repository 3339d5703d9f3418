"""``relay status``: backlog, owners, rates, pauses, and what is in the way."""

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from config.settings import BaseSettings
from outbox.errors import OutboxError
from outbox.rows import CallsLeft, ShardStatus
from outbox.store import Store
from relay.cli.shared import escaped, outbox_of, told_time

WATCH_SECONDS = 2.0
UNFOLDED_COLUMNS = 10_000
COUNTS = ("pending", "waiting", "parked", "discarded")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a shard and line.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=WATCH_SECONDS,
    type=click.FloatRange(0.2, 3600),
    metavar="[SECONDS]",
    help=f"Look again every so many seconds ({WATCH_SECONDS:.0f} if none are given), until Ctrl-C.",
)
def status(*, as_json: bool, watch: float | None) -> None:
    """Backlog by state, oldest row, owner, rate and time to drain of each shard, and why one does not move.

    \b
    Examples:
      relay status --watch 5
      relay status --json | jq 'select(.parked > 0)'
    """
    with outbox_of(BaseSettings) as (engine, _):
        store = Store(engine)
        if watch is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's job ignores it
        try:
            if as_json:
                _print_lines(store, watch)
            elif watch is None:
                _print_table(store)
            else:
                _watch(store, watch)
        except KeyboardInterrupt:
            return


def _print_table(store: Store) -> None:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:  # nothing there has an edge to fold at
        console.width = UNFOLDED_COLUMNS
    console.print(shown(store.status(), store.calls_left()))


def _print_lines(store: Store, watch: float | None) -> None:
    while True:
        for shard in store.status():
            click.echo(json.dumps(told(shard)))
        if watch is None:
            return
        time.sleep(watch)


def _watch(store: Store, seconds: float) -> None:
    with Live(auto_refresh=False) as live:
        while True:
            try:
                live.update(shown(store.status(), store.calls_left()), refresh=True)
            except OutboxError as error:  # it may come back
                live.update(Text(escaped(error)), refresh=True)
            time.sleep(seconds)


def told(shard: ShardStatus) -> dict[str, Any]:
    """A shard as JSON tells it."""
    live = shard.owner is not None and shard.lease_remaining_ms > 0
    rate = shard.rows_per_second if live else 0.0
    return {
        **shard._asdict(),
        "owner": shard.owner if live else None,
        "owner_live": live,
        "lease_remaining_ms": shard.lease_remaining_ms if live else 0,
        "rows_per_second": rate,
        "drained_in_seconds": _drained_in(shard.pending - shard.waiting, rate),
    }


def _drained_in(rows: int, rate: float) -> int | None:
    if not rows:
        return 0
    return round(rows / rate) if rate else None


def shown(shards: list[ShardStatus], calls: CallsLeft) -> Group:
    """The shards as people read them, with a total; below it who sends them, and what is in the way.

    The table fits 80 columns: owners and conditions, which may be long, are lines of their own.
    """
    lines = [told(shard) for shard in shards]
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("shard", "epoch", "lease", *COUNTS, "oldest", "rows/s", "drained in"):
        made.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        made.add_row(
            str(line["shard"]),
            str(line["epoch"]),
            f"{line['lease_remaining_ms'] / 1000:.0f}s" if line["owner"] else "-",
            *(f"{line[name]:,}" for name in COUNTS),
            _seconds(line["oldest_age_ms"], 1000),
            f"{line['rows_per_second']:,.0f}" if line["owner"] else "-",
            _seconds(line["drained_in_seconds"]),
        )
    _add_total(made, lines)
    below = [*_by_shards(lines, lambda line: f"sent by {line['owner'] or 'nobody'}"), *_by_shards(lines, _condition)]
    if calls.due or calls.parked:
        below.append(f"inference: {calls.due:,} call(s) due, {calls.parked:,} parked (relay inference list --all)")
    return Group(made, *map(Text, map(escaped, below)))


def _add_total(made: Table, lines: list[dict[str, Any]]) -> None:
    owned = any(line["owner"] for line in lines)
    drains = [line["drained_in_seconds"] for line in lines]
    made.add_row(
        "total",
        "",
        "",
        *(f"{sum(line[name] for line in lines):,}" for name in COUNTS),
        _seconds(max((line["oldest_age_ms"] or 0 for line in lines), default=0) or None, 1000),
        f"{sum(line['rows_per_second'] for line in lines):,.0f}" if owned else "-",
        _seconds(None if None in drains else max(drains, default=0)),
        style="bold",
    )


def _by_shards(lines: list[dict[str, Any]], of: Callable[[dict[str, Any]], str]) -> Iterator[str]:
    """What is said of shards, each thing once, with those that it is said of."""
    shards: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        shards[of(line)].append(str(line["shard"]))
    for said, numbers in shards.items():
        if said:
            yield f"shard{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {said}"


def _condition(line: dict[str, Any]) -> str:
    if line["paused_by"] is None:
        return line["condition"] or ""
    until = f" until {told_time(line['paused_until_ms'])}" if line["paused_until_ms"] is not None else ""
    paused = f"paused by {line['paused_by']}{until}: {line['paused_reason']}"
    return f"{paused}; {line['condition']}" if line["condition"] else paused


def _seconds(value: float | None, per_second: int = 1) -> str:
    if value is None:
        return "-"
    minutes, seconds = divmod(round(value / per_second), 60)
    return f"{minutes // 60}h {minutes % 60:02}m" if minutes >= 60 else f"{minutes}m {seconds:02}s"
