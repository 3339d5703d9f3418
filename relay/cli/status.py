"""``relay status``: backlog, owners, rates, pauses, and what is in the way."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from config.settings import BaseSettings
from outbox.errors import OutboxError
from outbox.models import CallsLeft, ShardStatus
from outbox.store import Store
from relay.cli.options import JSON, outbox_of
from relay.cli.output import escaped, to_json, told_time
from relay.settings import parse_age

WATCH_SECONDS = 2.0
"""Unless given."""
SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 3600
UNFOLDED_COLUMNS = 10_000
COUNTS = ("pending", "waiting", "parked", "discarded")
HEADS = ("shard", "epoch", "lease", *COUNTS, "oldest", "rows/s", "drained in")
TOTAL = "total"


class Pause(click.ParamType[float]):
    """A pause between two looks, in seconds or as a span."""

    name = "seconds"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = parse_age(str(value)) or 0.0
        if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            self.fail(f"{value!r} is not a number of seconds from {SHORTEST_SECONDS} to {LONGEST_SECONDS}", param, ctx)
        return seconds


@click.command()
@JSON
@click.option(
    "--watch",
    is_flag=False,
    flag_value=WATCH_SECONDS,
    type=Pause(),
    metavar="[SECONDS]",
    help=f"Look again every {WATCH_SECONDS:.0f} seconds, or as often as given, until Ctrl-C.",
)
def status(*, json_lines: bool, watch: float | None) -> None:
    """Show backlog, owners, rates and problems of each shard.

    For each shard: its rows by state, the oldest pending one, how fast it is sent and how long the rest
    takes; below, who sends it, and why it does not move.

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
            if watch is None:
                (_print_lines if json_lines else _print_table)(store)
            elif json_lines:
                _repeat(lambda: _print_lines(store), watch)
            else:
                _watch(store, watch)
        except KeyboardInterrupt:
            return


def _repeat(once: Callable[[], None], seconds: float) -> NoReturn:
    while True:
        try:
            once()
        except OutboxError as error:  # it may come back
            click.echo(escaped(error), err=True)
        time.sleep(seconds)


def _watch(store: Store, seconds: float) -> NoReturn:
    """In place on a terminal; elsewhere a table after the other, each with its time."""
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        _repeat(lambda: _print_table(store, told_time(round(time.time() * 1000))), seconds)
    with Live(auto_refresh=False, vertical_overflow="visible") as live:  # never hide what is in the way

        def update() -> None:
            live.update(shown(store.status(), store.calls_left(), console.width), refresh=True)

        _repeat(update, seconds)


def _print_table(store: Store, heading: str | None = None) -> None:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:  # nothing there has an edge to fold at
        console.width = UNFOLDED_COLUMNS
    made = shown(store.status(), store.calls_left(), console.width)
    if heading:
        click.echo(heading)
    console.print(made)


def _print_lines(store: Store) -> None:
    for shard in store.status():
        click.echo(to_json(told(shard)))


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


def shown(shards: list[ShardStatus], calls: CallsLeft, width: int) -> Group:
    """The shards as people read them, with a total; below it who sends them, and what is in the way.

    The table fits 80 columns: owners and conditions, which may be long, are lines of their own. Where not even
    the table fits, each number is a line of its own, too.
    """
    lines = [told(shard) for shard in shards]
    rows = [*map(_cells, lines), _total(lines)]
    widest = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    made = _table(rows) if sum(widest) + len(widest) - 1 <= width else Text("\n".join(_blocks(rows)))
    below = [*_by_shards(lines, lambda line: f"sent by {line['owner'] or 'nobody'}"), *_by_shards(lines, _condition)]
    if calls.due or calls.parked:
        below.append(f"inference: {calls.due:,} call(s) due, {calls.parked:,} parked (relay inference list --all)")
    return Group(made, *map(Text, map(escaped, below)))


def _table(rows: list[list[str]]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in HEADS:
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*row, style="bold" if row is rows[-1] else None)
    return made


def _blocks(rows: list[list[str]]) -> Iterator[str]:
    """A row as lines of name and value."""
    for shard, *values in rows:
        yield shard if shard == TOTAL else f"shard {shard}"
        yield from (f"  {name}: {value}" for name, value in zip(HEADS[1:], values, strict=True) if value)


def _cells(line: dict[str, Any]) -> list[str]:
    return [
        str(line["shard"]),
        str(line["epoch"]),
        f"{line['lease_remaining_ms'] / 1000:.0f}s" if line["owner"] else "-",
        *(f"{line[name]:,}" for name in COUNTS),
        _seconds(line["oldest_age_ms"], 1000),
        f"{line['rows_per_second']:,.0f}" if line["owner"] else "-",
        _seconds(line["drained_in_seconds"]),
    ]


def _total(lines: list[dict[str, Any]]) -> list[str]:
    owned = any(line["owner"] for line in lines)
    drains = [line["drained_in_seconds"] for line in lines]
    return [
        TOTAL,
        "",
        "",
        *(f"{sum(line[name] for line in lines):,}" for name in COUNTS),
        _seconds(max((line["oldest_age_ms"] or 0 for line in lines), default=0) or None, 1000),
        f"{sum(line['rows_per_second'] for line in lines):,.0f}" if owned else "-",
        _seconds(None if None in drains else max(drains, default=0)),
    ]


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
