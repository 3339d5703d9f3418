"""How commands change rows: show the plan, confirm, change exactly the planned rows, stop cleanly."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from time import monotonic

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from outbox.operators.apply import Outcome, apply_change
from outbox.operators.audit import AuditContext
from outbox.operators.commands import format_command
from outbox.operators.format import escape, plural
from outbox.operators.plan import Plan
from outbox.operators.planned_change import PlannedChange
from outbox.operators.rows import FoundRow
from relay.cli.options import ChangeOptions, confirm
from relay.cli.output import ExitCode, format_row


def find_rows(rows: Iterable[FoundRow]) -> Plan:
    """Collect rows into a plan. Where no index helps this takes a while, so a terminal shows a spinner."""
    console = Console(stderr=True)
    with console.status("finding rows") if console.is_terminal else nullcontext():
        return Plan(rows)


def run_change(change: PlannedChange, options: ChangeOptions, context: AuditContext) -> ExitCode:
    """Show the plan, ask for confirmation and apply it."""
    total = len(change.plan)
    if not total:
        click.echo(escape(f"{change.verb.command}: {change.empty_reason}"), err=True)
        return ExitCode.NOTHING_MATCHED
    _print_plan(change)
    if options.dry_run:
        return ExitCode.DONE
    if not confirm(f"{change.verb.command} {plural(total, 'row')}?", yes=options.yes):
        return ExitCode.USAGE
    outcome = _apply(change, context, options.rate)
    _print_outcome(change, options, outcome)
    return ExitCode.DONE if outcome.changed == total else ExitCode.PARTLY_DONE


def _print_plan(change: PlannedChange) -> None:
    click.echo(f"{change.verb.command} {plural(len(change.plan), 'row')}:", err=True)
    for sentence in change.consequences:
        click.echo(f"  {sentence}", err=True)
    for row in change.plan.sample:
        click.echo(f"  {format_row(row)}", err=True)
    if (more := len(change.plan) - len(change.plan.sample)) > 0:
        click.echo(f"  and {more:,} more", err=True)


def _print_outcome(change: PlannedChange, options: ChangeOptions, outcome: Outcome) -> None:
    click.echo(f"{change.verb.command}: {plural(outcome.changed, 'row')} done")
    if outcome.skipped:
        click.echo(f"skipped {plural(outcome.skipped, 'row')} changed by somebody else since the plan", err=True)
    if remaining := len(change.plan) - outcome.processed:
        command = format_command(*change.arguments, *options.as_arguments())
        reason = escape(outcome.stop_reason)
        click.echo(f"{reason}: {plural(remaining, 'row')} not processed. To continue: {command}", err=True)


def _apply(change: PlannedChange, context: AuditContext, rate: int | None) -> Outcome:
    """Apply the plan behind a progress bar; Ctrl-C ends it after the current chunk."""
    started = monotonic()
    with _deferred_interrupts() as interrupted, _progress_bar() as bar:
        task = bar.add_task(change.verb.command, total=len(change.plan), speed="")

        def report(processed: int) -> None:
            bar.update(task, completed=processed, speed=f"{processed / (monotonic() - started):,.0f} rows/s")

        return apply_change(change, context, rate=rate, stopped=interrupted, report=report)


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
