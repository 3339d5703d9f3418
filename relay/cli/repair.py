"""``relay retry`` and ``relay discard``: plan, then act on exactly the rows that were planned."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from outbox.operations import Operations
from outbox.rows import FoundRow, Order
from outbox.states import RowState
from relay.cli.list import told_row
from relay.cli.shared import (
    DONE,
    NOTHING_MATCHED,
    PARTLY_DONE,
    USAGE,
    F,
    operations,
    row_filters,
    rows_from,
    who_acts,
)

CHUNK_ROWS = 500
SAMPLE_ROWS = 5

Change = Callable[[Operations, list[FoundRow], Order], list[int]]


def changing(command: F) -> F:
    """The options of every verb that changes rows."""
    for option in (
        click.option("--rate", type=click.IntRange(1), help="At most so many rows a second."),
        click.option("--as", "actor", help="Who is on record; RELAY_ACTOR or the OS user without."),
        click.option("--reason", required=True, help="Why, for the record."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would happen, change nothing."),
    ):
        command = option(command)
    return row_filters(command)


@click.command()
@changing
def retry(**given: Any) -> None:
    """Make parked rows pending again: each is sent before the rows that wait behind it.

    \b
    Examples:
      relay retry --id 4711 --reason "topic limit raised"
      relay retry --error MSG_SIZE_TOO_LARGE --since 2h --dry-run --reason "looking"
    """
    sys.exit(_plan_and_act("retry", Operations.retry, given))


@click.command()
@changing
def discard(**given: Any) -> None:
    """Decide that parked rows are not sent; the rows that wait behind them go on. The rows are kept.

    \b
    Examples:
      relay discard --id 4711 --reason "test call, agreed with the integrator"
      relay discard --interaction abc-1 --dry-run --reason "looking"
    """
    sys.exit(_plan_and_act("discard", Operations.discard, given))


def _plan_and_act(verb: str, change: Change, given: dict[str, Any]) -> int:
    wanted = rows_from(given)
    if wanted.state not in (None, RowState.PARKED):
        raise click.UsageError(f"{verb} takes parked rows only, not {wanted.state} ones")
    wanted = replace(wanted, state=RowState.PARKED.value)
    with operations() as (verbs, settings):
        order = Order(who_acts(given["actor"], settings), given["reason"], wanted)
        planned = list(verbs.find(wanted))
        if not planned:
            click.echo("no parked row matches", err=True)
            return NOTHING_MATCHED
        _show_plan(verb, verbs, planned)
        if given["dry_run"]:
            return DONE
        if not given["yes"]:
            if not sys.stdin.isatty():
                click.echo("nothing is changed: without a terminal, give --yes", err=True)
                return USAGE
            click.confirm(f"{verb} {len(planned)} row(s)?", abort=True, err=True)
        changed = _act(verbs, change, planned, order, given["rate"])
    click.echo(f"{verb}: {changed} row(s) done")
    if changed < len(planned):
        click.echo(f"{len(planned) - changed} row(s) were not parked any more, and are left as they are", err=True)
        return PARTLY_DONE
    return DONE


def _show_plan(verb: str, verbs: Operations, planned: list[FoundRow]) -> None:
    behind = sum(verbs.count_behind([row.id for row in chunk]) for chunk in _chunks(planned, CHUNK_ROWS))
    click.echo(f"{verb} of {len(planned)} parked row(s); {behind} row(s) wait behind them", err=True)
    for row in planned[:SAMPLE_ROWS]:
        click.echo(f"  {told_row(row)}", err=True)
    if len(planned) > SAMPLE_ROWS:
        click.echo(f"  and {len(planned) - SAMPLE_ROWS} more", err=True)


def _act(verbs: Operations, change: Change, planned: list[FoundRow], order: Order, rate: int | None) -> int:
    """In chunks, each one transaction with its audit entry: an interruption leaves a consistent state."""
    changed, began = 0, monotonic()
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("rows", total=len(planned))
        for chunk in _chunks(planned, min(CHUNK_ROWS, rate or CHUNK_ROWS)):
            changed += len(change(verbs, chunk, order))
            progress.advance(task, len(chunk))
            if rate and (done := int(progress.tasks[task].completed)) < len(planned):
                sleep(max(0.0, done / rate - (monotonic() - began)))
    return changed


def _chunks(rows: list[FoundRow], size: int) -> Iterator[list[FoundRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
