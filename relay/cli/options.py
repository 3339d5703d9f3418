"""Options shared by the commands. Each group of options reaches its command as one frozen dataclass."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from typing import Any, TypeVar

import click

from outbox.models import chosen_key
from outbox.operators.commands import change_arguments
from outbox.operators.format import format_time
from outbox.operators.rows import RowFilter
from outbox.states import RowState
from relay.cli.output import ExitCode
from relay.cli.param_types import IntegerParam, NonEmptyParam, ReasonParam, RowIdParam, TextParam, TimeParam, Timestamp

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Callable[..., Any]], Callable[..., Any]]
T = TypeVar("T")

SHARD_NUMBER = IntegerParam(0, 98)
"""Type of a shard number. An outbox has at most 99 shards."""


def _option_group(argument: str, kind: type[T], options: tuple[Option, ...]) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command and passes their values as one argument.

    Args:
        argument: name of the command's keyword argument.
        kind: dataclass whose fields are named like the options' parameters.
        options: the options, in the order of the help.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]

    def add(command: Command) -> Command:
        @wraps(command)
        def parse(**values: Any) -> Any:
            grouped = {name: values.pop(name) for name in names if name in values}
            return command(**{argument: kind(**grouped)}, **values)

        decorated: Any = parse
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return add


# Which rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowSelection:
    """The rows that an operator selected, as typed."""

    ids: tuple[int, ...]
    interaction: str | None
    state: str | None
    channel: str | None
    error: str | None
    since: Timestamp | None
    until: Timestamp | None
    all_rows: bool
    idempotency_key: str | None = None
    """Only ``relay list`` has it: it finds one row, which other commands select by its id."""

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a filter nor ``--all``."""
        return not self.all_rows and self.filter() == RowFilter()

    def filter(self) -> RowFilter:
        """Return the filters, whether or not ``--all`` is given.

        Raises:
            click.UsageError: ``--since`` is not before ``--until``.
        """
        if self.since and self.until and self.since.ms >= self.until.ms:
            raise click.UsageError(
                f"--since {self.since.text} ({format_time(self.since.ms)}) is not before --until {self.until.text} "
                f"({format_time(self.until.ms)}): --since takes the earlier time, --until the later one"
            )
        return RowFilter(
            ids=self.ids,
            interaction_id=self.interaction,
            state=self.state,
            key=None if self.idempotency_key is None else chosen_key(self.idempotency_key),
            channel=self.channel,
            error=self.error,
            since_ms=self.since.ms if self.since else None,
            until_ms=self.until.ms if self.until else None,
        )

    def require(self) -> RowFilter:
        """Return the filters, one of which or ``--all`` is required.

        Raises:
            click.UsageError: neither is given, or both.
        """
        rows = self.filter()
        if (rows == RowFilter()) != self.all_rows:
            raise click.UsageError("select rows by a filter such as --id or --since, or all rows by --all, not both")
        return rows

    def as_typed(self) -> dict[str, Any]:
        """Return the values as typed: an age such as 2h stays an age."""
        times = {"since": self.since and self.since.text, "until": self.until and self.until.text}
        return {**asdict(self), **times}


row_filters = _option_group(
    "selection",
    RowSelection,
    (
        click.option(
            "--id", "ids", multiple=True, type=RowIdParam(), help="Select the row with this outbox id; may be repeated."
        ),
        click.option("--interaction", type=NonEmptyParam(), help="Select rows of this interaction id."),
        click.option(
            "--state",
            type=click.Choice([state.value for state in RowState]),
            metavar="STATE",
            help=f"Select rows in this state: {', '.join(RowState)}.",
        ),
        click.option("--channel", type=NonEmptyParam(), help="Select rows of this channel, such as voice."),
        click.option(
            "--error", type=NonEmptyParam(), help="Select rows whose error contains this text (case-insensitive)."
        ),
        click.option(
            "--since",
            type=TimeParam(),
            help="Select rows received at or after this time: 2026-01-31T08:00, 21:00, yesterday, 1h30m.",
        ),
        click.option(
            "--until", type=TimeParam(), help="Select rows received before this time; same formats as --since."
        ),
        click.option("--all", "all_rows", is_flag=True, help="Select all rows."),
    ),
)
"""Adds the filters of every command that selects rows: ``selection: RowSelection``."""

# How to change something ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangeOptions:
    """Who changes something and why, and whether and how fast to do it. Not every command has every option."""

    reason: str
    actor: str | None
    dry_run: bool = False
    yes: bool = False
    rate: int | None = None
    """Rows per second."""

    def as_arguments(self) -> list[str]:
        """Return rate, actor and reason as command line arguments."""
        return change_arguments(self.reason, self.actor, self.rate)


def _require_reason_unless_dry_run(ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    if value is None and not ctx.params.get("dry_run"):
        raise click.UsageError("missing option --reason: every change requires a reason, for the audit log", ctx)
    return value or ""


JSON = click.option("--json", "json_lines", is_flag=True, help="Print JSON, one object per line.")
ACTOR = click.option(
    "--as", "actor", type=TextParam(), help="Who acts, for the audit log [default: RELAY_ACTOR or the OS user]."
)
_DRY_RUN = click.option(
    "--dry-run",
    is_flag=True,
    is_eager=True,  # the check of --reason needs it
    help="Show the plan and change nothing; needs no --reason.",
)
_YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
_REASON = click.option(
    "--reason",
    type=ReasonParam(),
    callback=_require_reason_unless_dry_run,
    help="Why, for the audit log; required for every change.",
)
_RATE = click.option("--rate", type=IntegerParam(1), help="Change at most this many rows per second.")

audit_options = _option_group("options", ChangeOptions, (_REASON, ACTOR))
"""Adds the options of every audited command: ``options: ChangeOptions``."""
plan_options = _option_group("options", ChangeOptions, (_DRY_RUN, _YES, _REASON, ACTOR))
"""As ``audit_options``, for commands that show a plan first."""
change_options = _option_group("options", ChangeOptions, (_DRY_RUN, _YES, _REASON, ACTOR, _RATE))
"""As ``plan_options``, for commands that change rows."""


def confirm(question: str, *, yes: bool) -> bool:
    """Ask the operator; without a terminal, only ``--yes`` confirms.

    Raises:
        click.exceptions.Exit: the operator declined.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        click.echo("nothing changed: without a terminal, confirm with --yes", err=True)
        return False
    if not click.confirm(question, err=True):
        click.echo("nothing changed", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED)
    return True


def confirm_or_exit(question: str, options: ChangeOptions) -> None:
    """Exit after a dry run or without a confirmation; otherwise return."""
    if options.dry_run:
        sys.exit(ExitCode.DONE)
    if not confirm(question, yes=options.yes):
        sys.exit(ExitCode.USAGE)
