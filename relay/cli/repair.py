"""``relay retry``, ``relay discard`` and ``relay replay``: plan, then act on exactly the rows that were planned."""

import re
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic, sleep
from typing import Any, NamedTuple

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
    Words,
    operations,
    row_filters,
    rows_from,
    who_acts,
)

CHUNK_ROWS = 500
SAMPLE_ROWS = 5


class Verb(NamedTuple):
    """What a changing verb does, and what it says."""

    name: str
    states: tuple[RowState, ...]
    """That it takes; the first is meant where no state is given."""
    change: Callable[[Operations, list[FoundRow], Order], list[int]]
    """Changes rows that still are what they were; returns the ids of those."""
    consequence: str
    left: str
    """Why planned rows may be left as they are."""


def changing(command: F) -> F:
    """The options of every verb that changes rows."""
    for option in (
        click.option("--rate", type=click.IntRange(1), help="At most so many rows a second."),
        click.option("--as", "actor", type=Words(), help="Who is on record; RELAY_ACTOR or the OS user without."),
        click.option("--reason", type=Words(), required=True, help="Why, for the record."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would happen, change nothing."),
    ):
        command = option(command)
    return row_filters(command)


_LEFT = "were not parked any more, and are left as they are"
RETRY = Verb("retry", (RowState.PARKED,), Operations.retry, "they are sent before what waits behind them", _LEFT)
DISCARD = Verb("discard", (RowState.PARKED,), Operations.discard, "they are not sent; what waits goes on", _LEFT)


@click.command()
@changing
def retry(**given: Any) -> None:
    """Make parked rows pending again: each is sent before the rows that wait behind it.

    \b
    Examples:
      relay retry --id 4711 --reason "topic limit raised"
      relay retry --error MSG_SIZE_TOO_LARGE --since 2h --dry-run --reason "looking"
    """
    sys.exit(_plan_and_act(RETRY, given))


@click.command()
@changing
def discard(**given: Any) -> None:
    """Decide that parked rows are not sent; the rows that wait behind them go on. The rows are kept.

    \b
    Examples:
      relay discard --id 4711 --reason "test call, agreed with the integrator"
      relay discard --interaction abc-1 --dry-run --reason "looking"
    """
    sys.exit(_plan_and_act(DISCARD, given))


@click.command()
@changing
@click.option("--plan", help="Continue the plan of this name: what it has replayed is not replayed again.")
def replay(*, plan: str | None, **given: Any) -> None:
    """Send rows again that are sent (or, with --state discarded, discarded): deliberate duplicates.

    Each becomes a new row, in the old order, and its record carries the header replay-of.

    \b
    Examples:
      relay replay --since 2026-01-31T08:00 --until 2026-01-31T09:00 --reason "consumer lost an hour" --rate 500
      relay replay --id 4711 --state discarded --reason "discarded by mistake"
    """
    if plan and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", plan):
        raise click.UsageError(f"--plan {plan!r}: takes 1 to 64 letters, digits, hyphens and underscores")
    name = plan or uuid.uuid4().hex[:12]
    verb = Verb(
        "replay",
        (RowState.SENT, RowState.DISCARDED),
        lambda verbs, rows, order: verbs.replay(name, rows, order),
        f"each is sent again with the header replay-of; to continue after an interruption: --plan {name}",
        "were replayed by this plan already, or are neither sent nor discarded any more",
    )
    sys.exit(_plan_and_act(verb, given))


def _plan_and_act(verb: Verb, given: dict[str, Any]) -> int:
    wanted = rows_from(given)
    state = RowState(wanted.state) if wanted.state else verb.states[0]
    if state not in verb.states:
        raise click.UsageError(f"{verb.name} takes {' or '.join(verb.states)} rows only, not {state} ones")
    wanted = replace(wanted, state=state.value)
    with operations() as (verbs, settings):
        order = Order(who_acts(given["actor"], settings), given["reason"], wanted)
        planned = list(verbs.find(wanted))
        if not planned:
            click.echo(f"no {state} row matches", err=True)
            return NOTHING_MATCHED
        _show_plan(verb, verbs, planned)
        if given["dry_run"]:
            return DONE
        if not given["yes"]:
            if not sys.stdin.isatty():
                click.echo("nothing is changed: without a terminal, give --yes", err=True)
                return USAGE
            click.confirm(f"{verb.name} {len(planned)} row(s)?", abort=True, err=True)
        changed = _act(verbs, verb, planned, order, given["rate"])
    click.echo(f"{verb.name}: {changed} row(s) done")
    if changed < len(planned):
        click.echo(f"{len(planned) - changed} row(s) {verb.left}", err=True)
        return PARTLY_DONE
    return DONE


def _show_plan(verb: Verb, verbs: Operations, planned: list[FoundRow]) -> None:
    behind = sum(verbs.count_behind([row.id for row in chunk]) for chunk in _chunks(planned, CHUNK_ROWS))
    waiting = f"; {behind} row(s) wait behind them" if RowState.PARKED in verb.states else ""
    click.echo(f"{verb.name} of {len(planned)} row(s){waiting}: {verb.consequence}", err=True)
    for row in planned[:SAMPLE_ROWS]:
        click.echo(f"  {told_row(row)}", err=True)
    if len(planned) > SAMPLE_ROWS:
        click.echo(f"  and {len(planned) - SAMPLE_ROWS} more", err=True)


def _act(verbs: Operations, verb: Verb, planned: list[FoundRow], order: Order, rate: int | None) -> int:
    """In chunks, each one transaction with its audit entry: an interruption leaves a consistent state."""
    changed, began = 0, monotonic()
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("rows", total=len(planned))
        for chunk in _chunks(planned, min(CHUNK_ROWS, rate or CHUNK_ROWS)):
            changed += len(verb.change(verbs, chunk, order))
            progress.advance(task, len(chunk))
            if rate and (done := int(progress.tasks[task].completed)) < len(planned):
                sleep(max(0.0, done / rate - (monotonic() - began)))
    return changed


def _chunks(rows: list[FoundRow], size: int) -> Iterator[list[FoundRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
