"""What the verbs that change rows share: show the plan, ask, act on exactly the planned rows, stop in good order."""

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any, NamedTuple, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from outbox.errors import OutboxError
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.plan import Plan
from outbox.operators.rows import FoundRow, PlannedRow, RowFilter
from relay.cli.list import told_row
from relay.cli.options import (
    ACTOR,
    DONE,
    DRY_RUN,
    NOTHING_MATCHED,
    PARTLY_DONE,
    REASON,
    USAGE,
    YES,
    F,
    OperatorSettings,
    WholeNumber,
    confirmed,
    who_acts,
)
from relay.cli.output import as_command, escaped

CHUNK_ROWS = 500
SLICE_SECONDS = 0.1
"""Longest pause between two looks at whether to stop."""

_OPTIONS = (
    DRY_RUN,
    YES,
    REASON,
    ACTOR,
    click.option("--rate", type=WholeNumber(1), help="Change at most this many rows a second."),
)


def changing(command: F) -> F:
    """The options of every verb that changes rows; ``Asked.taken_from`` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Asked(NamedTuple):
    """How an operator wants a change done."""

    dry_run: bool
    yes: bool
    reason: str
    actor: str | None
    rate: int | None

    @classmethod
    def taken_from(cls, given: dict[str, Any]) -> Self:
        """From the values of ``changing``'s options, which are taken out."""
        return cls(*(given.pop(name) for name in cls._fields))

    def as_options(self) -> list[str]:
        """Who, why and how fast, as they were given."""
        given = (("--rate", self.rate and str(self.rate)), ("--as", self.actor), ("--reason", self.reason))
        return [part for option, value in given if value for part in (option, value)]

    def context(self, wanted: RowFilter, settings: OperatorSettings) -> AuditContext:
        """Who, why, and which rows. Raises ``UsageError`` if nobody knows who acts."""
        return AuditContext(who_acts(self.actor, settings), self.reason, wanted, settings.pseudonym_key)


@dataclass(frozen=True)
class Change:
    """A planned change.

    Attributes:
        verb: what the operator called.
        plan: the rows.
        apply: changes a chunk of them, with its audit entry; returns the ids of those that were changed.
        consequences: what will happen, a sentence each.
        again: arguments of the command that continues it.
        nothing: why the plan is empty, if it is.
    """

    verb: str
    plan: Plan
    apply: Callable[[list[PlannedRow]], list[int]]
    consequences: tuple[str, ...]
    again: tuple[str, ...]
    nothing: str = "no row matches"


def nothing_to(verbs: Operations, wanted: RowFilter, kind: str) -> str:
    """Why no row is left to be changed: rows that are named by id or interaction may be there in another state.

    Args:
        wanted: what the operator asked for.
        kind: of rows that the verb takes.
    """
    named = bool(wanted.ids) or wanted.interaction_id is not None
    states = Counter(row.state for row in verbs.find(replace(wanted, state=None))) if named else None
    if not states:
        return "no row matches"
    return f"no {kind} row matches, only {', '.join(f'{count} {state}' for state, count in states.items())}"


def plan_of(rows: Iterable[FoundRow]) -> Plan:
    """A plan of rows as they are found, which takes its time where no index serves: a terminal is told so."""
    console = Console(stderr=True)
    with console.status("looking for rows") if console.is_terminal else nullcontext():
        return Plan(rows)


def carry_out(change: Change, asked: Asked) -> int:
    """Show, ask, act; returns the exit code."""
    total = len(change.plan)
    if not total:
        click.echo(escaped(f"{change.verb}: {change.nothing}"), err=True)
        return NOTHING_MATCHED
    _show(change)
    if asked.dry_run:
        return DONE
    if not confirmed(f"{change.verb} {total} row(s)?", yes=asked.yes):
        return USAGE
    done, seen, stopped = _act(change, asked.rate)
    click.echo(f"{change.verb}: {done} row(s) done")
    if done < seen:
        click.echo(f"{seen - done} row(s) changed since they were shown, and are left as they are", err=True)
    if seen < total:
        again = as_command(*change.again, *asked.as_options())
        click.echo(f"{escaped(stopped)}: {total - seen} row(s) are as they were. To continue: {again}", err=True)
    return DONE if done == total else PARTLY_DONE


def _show(change: Change) -> None:
    click.echo(f"{change.verb} of {len(change.plan)} row(s):", err=True)
    for sentence in change.consequences:
        click.echo(f"  {sentence}", err=True)
    for row in change.plan.sample:
        click.echo(f"  {told_row(row)}", err=True)
    if (more := len(change.plan) - len(change.plan.sample)) > 0:
        click.echo(f"  and {more} more", err=True)


def _act(change: Change, rate: int | None) -> tuple[int, int, str]:
    """Chunk by chunk, each one transaction: how many were changed, how many were gone through, why it ended."""
    done = seen = 0
    began = monotonic()
    with _interrupts() as interrupted, _progress() as progress:
        task = progress.add_task(change.verb, total=len(change.plan), speed="")
        for chunk in change.plan.chunks(min(CHUNK_ROWS, rate or CHUNK_ROWS)):
            if interrupted():
                return done, seen, "interrupted"
            try:
                done += len(change.apply(chunk))
            except OutboxError as error:
                if not seen:
                    raise
                return done, seen, str(error)
            seen += len(chunk)
            speed = f"{seen / (monotonic() - began):,.0f} rows/s"
            progress.update(task, completed=seen, speed=speed)
            while rate and seen < len(change.plan) and monotonic() < began + seen / rate and not interrupted():
                sleep(min(SLICE_SECONDS, max(0.0, began + seen / rate - monotonic())))
    return done, seen, ""


def _progress() -> Progress:
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
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within the block a first Ctrl-C or SIGTERM is only noted, so that the chunk in hand ends; a second one kills."""
    noted: list[int] = []

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
