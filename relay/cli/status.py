"""``relay status``: backlog, owners, rates, pauses and problems of the shards."""

import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

import click
from rich.console import Console, Group
from rich.live import Live

from config.settings import BaseSettings
from outbox.errors import OutboxError
from outbox.operators.format import escape, format_time
from outbox.operators.shard_status import shard_fields
from outbox.store import Store
from relay.cli.options import JSON
from relay.cli.output import to_json
from relay.cli.param_types import IntervalParam
from relay.cli.session import open_outbox
from relay.cli.status_table import render_status

WATCH_SECONDS = 2.0
"""Default of ``--watch``."""
MIN_WATCH_SECONDS, MAX_WATCH_SECONDS = 0.2, 3600
UNWRAPPED_COLUMNS = 10_000


@click.command()
@JSON
@click.option(
    "--watch",
    is_flag=False,
    flag_value=WATCH_SECONDS,
    type=IntervalParam(MIN_WATCH_SECONDS, MAX_WATCH_SECONDS),
    metavar="[SECONDS]",
    help=f"Refresh every {WATCH_SECONDS:.0f} seconds, or at this interval, until Ctrl-C.",
)
def status(*, json_lines: bool, watch: float | None) -> None:
    """Show backlog, owners, rates and problems of each shard.

    For each shard: its rows by state, the age of the oldest pending row, the sending rate and the time to
    drain; below the table, the shard's owner and why it does not send.

    \b
    Examples:
      relay status --watch 5
      relay status --json | jq 'select(.parked > 0)'
    """
    with open_outbox(BaseSettings) as (engine, _):
        store = Store(engine)
        if watch is None:
            (_print_json if json_lines else _print_table)(store)
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        try:
            if json_lines:
                _repeat(lambda: _print_json(store), watch)
            else:
                _watch(store, watch)
        except KeyboardInterrupt:
            return


def _repeat(action: Callable[[], None], seconds: float) -> NoReturn:
    while True:
        try:
            action()
        except OutboxError as error:  # the database may come back
            click.echo(escape(error), err=True)
        time.sleep(seconds)


def _watch(store: Store, seconds: float) -> NoReturn:
    """Refresh in place on a terminal; elsewhere print one table after the other, each with its time."""
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        _repeat(lambda: _print_table(store, format_time(round(time.time() * 1000))), seconds)
    with Live(auto_refresh=False, vertical_overflow="visible") as live:  # never hide a problem

        def update() -> None:
            live.update(_render(store, console.width), refresh=True)

        _repeat(update, seconds)


def _print_table(store: Store, heading: str | None = None) -> None:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:  # a pipe or a file has no width
        console.width = UNWRAPPED_COLUMNS
    table = _render(store, console.width)
    if heading:
        click.echo(heading)
    console.print(table)


def _render(store: Store, width: int) -> Group:
    return render_status(store.status(), store.count_calls(), width, store.last_verdict())


def _print_json(store: Store) -> None:
    for shard in store.status():
        click.echo(to_json(shard_fields(shard)))
