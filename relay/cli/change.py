"""How commands change rows: show the plan, confirm, change exactly the planned rows, stop cleanly."""

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import monotonic, sleep, time
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from outbox.errors import OutboxError
from outbox.operators.change import Operations
from outbox.operators.commands import format_command
from outbox.operators.format import escape, plural
from outbox.operators.plan import Plan
from outbox.operators.rows import FoundRow, PlannedRow, RowFilter
from relay.cli.options import ChangeOptions, confirm
from relay.cli.output import ExitCode, format_row

CHUNK_ROWS = 500
MAX_SLEEP_SECONDS = 0.1
"""How late an interrupt may be noticed while ``--rate`` slows a change down."""


@dataclass(frozen=True)
class PlannedChange:
    """A change that is ready to be shown and applied.

    Attributes:
        command: what the operator called.
        plan: the rows.
        apply: changes a chunk of them with its audit entry, and returns the ids of the changed rows.
        consequences: what will happen, a sentence each.
        continuation: arguments of the command that continues an interrupted change.
        empty_reason: why the plan is empty, if it is.
    """

    command: str
    plan: Plan
    apply: Callable[[list[PlannedRow]], list[int]]
    consequences: tuple[str, ...]
    continuation: tuple[str, ...]
    empty_reason: str = "no row matches"


class Outcome(NamedTuple):
    """How far a change got."""

    changed: int
    processed: int
    """Rows that were changed or skipped."""
    stop_reason: str
    """Why it ended early; empty if it did not."""


def find_rows(rows: Iterable[FoundRow]) -> Plan:
    """Collect rows into a plan. Where no index helps this takes a while, so a terminal shows a spinner."""
    console = Console(stderr=True)
    with console.status("finding rows") if console.is_terminal else nullcontext():
        return Plan(rows)


def explain_empty(operations: Operations, rows: RowFilter, kind: str) -> str:
    """Say why there is nothing to change: rows named by id or interaction may be in another state.

    Args:
        operations: on the outbox.
        rows: what the operator selected.
        kind: the kind of rows that the command changes, such as "parked".
    """
    is_specific = bool(rows.ids) or rows.interaction_id is not None
    states = Counter(row.state for row in operations.find(replace(rows, state=None))) if is_specific else None
    if not states:
        return "no row matches"
    return f"no {kind} row matches, only {', '.join(f'{count} {state}' for state, count in states.items())}"


def until_now(rows: RowFilter) -> RowFilter:
    """Exclude rows received from now on, so that a later run of the command selects the same rows."""
    if rows.ids or rows.until_ms is not None:
        return rows
    return replace(rows, until_ms=round(time() * 1000))


def run_change(change: PlannedChange, options: ChangeOptions) -> ExitCode:
    """Show the plan, ask for confirmation and apply it."""
    total = len(change.plan)
    if not total:
        click.echo(escape(f"{change.command}: {change.empty_reason}"), err=True)
        return ExitCode.NOTHING_MATCHED
    _print_plan(change)
    if options.dry_run:
        return ExitCode.DONE
    if not confirm(f"{change.command} {plural(total, 'row')}?", yes=options.yes):
        return ExitCode.USAGE
    outcome = _apply(change, options.rate)
    _print_outcome(change, options, outcome)
    return ExitCode.DONE if outcome.changed == total else ExitCode.PARTLY_DONE


def _print_plan(change: PlannedChange) -> None:
    click.echo(f"{change.command} {plural(len(change.plan), 'row')}:", err=True)
    for sentence in change.consequences:
        click.echo(f"  {sentence}", err=True)
    for row in change.plan.sample:
        click.echo(f"  {format_row(row)}", err=True)
    if (more := len(change.plan) - len(change.plan.sample)) > 0:
        click.echo(f"  and {more:,} more", err=True)


def _print_outcome(change: PlannedChange, options: ChangeOptions, outcome: Outcome) -> None:
    click.echo(f"{change.command}: {plural(outcome.changed, 'row')} done")
    if skipped := outcome.processed - outcome.changed:
        click.echo(f"skipped {plural(skipped, 'row')} changed by somebody else since the plan", err=True)
    if remaining := len(change.plan) - outcome.processed:
        command = format_command(*change.continuation, *options.as_arguments())
        reason = escape(outcome.stop_reason)
        click.echo(f"{reason}: {plural(remaining, 'row')} not processed. To continue: {command}", err=True)


def _apply(change: PlannedChange, rate: int | None) -> Outcome:
    """Apply the plan chunk by chunk, one transaction each."""
    changed = processed = 0
    started = monotonic()
    with _deferred_interrupts() as interrupted, _progress_bar() as bar:
        task = bar.add_task(change.command, total=len(change.plan), speed="")
        for chunk in change.plan.chunks(min(CHUNK_ROWS, rate or CHUNK_ROWS)):
            if interrupted():
                return Outcome(changed, processed, "interrupted")
            try:
                changed += len(change.apply(chunk))
            except OutboxError as error:
                if not processed:
                    raise
                return Outcome(changed, processed, str(error))
            processed += len(chunk)
            bar.update(task, completed=processed, speed=f"{processed / (monotonic() - started):,.0f} rows/s")
            if rate and processed < len(change.plan):
                _sleep_until(started + processed / rate, interrupted)
    return Outcome(changed, processed, "")


def _sleep_until(deadline: float, interrupted: Callable[[], bool]) -> None:
    while (remaining := deadline - monotonic()) > 0 and not interrupted():
        sleep(min(MAX_SLEEP_SECONDS, remaining))


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextmanager
def _deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Defer the first Ctrl-C or SIGTERM, so that the current chunk is finished; a second one kills the process."""
    received: list[int] = []

    def defer(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, defer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
