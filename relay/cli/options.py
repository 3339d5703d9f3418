"""What the operators' verbs share: exit codes, filters, who acts, and data made safe for a terminal."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from pydantic import SecretStr, field_validator
from sqlalchemy import Engine

from config.settings import BaseSettings, load
from outbox.db import rights
from outbox.db.engine import ANSWER_SECONDS, create_outbox_engine
from outbox.errors import OutboxError, UnsafeDatabaseError
from outbox.models import INT64_MAX, RowFilter
from outbox.operators.audit import os_user
from outbox.operators.change import Operations
from outbox.states import RowState
from relay.cli import times
from relay.cli.output import told_time
from relay.settings import DAY_SECONDS, Retention, Topics

DONE, FAILED, USAGE, NOTHING_MATCHED, CHECK_FAILED, PARTLY_DONE = range(6)
"""Exit codes."""

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=BaseSettings)
LEAST_KEY_BYTES = 16
MOST_CHARACTERS = 1_000
"""Of a text that goes on record."""
_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")


class OperatorSettings(BaseSettings):
    """Settings of the commands that read and change rows."""

    relay_actor: str | None = None
    """Name recorded in the audit as the actor. Unset: the OS user."""
    audit_pseudonym_key: SecretStr | None = None
    """Key that turns ids and addresses in recorded filters into pseudonyms, 16 bytes or more; see
    [AUDIT_PSEUDONYM_KEY](#audit_pseudonym_key). Unset: they are not recorded."""
    kafka_replay_topics: Topics = ()
    outbox_retention: Retention = 7 * DAY_SECONDS

    @field_validator("audit_pseudonym_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < LEAST_KEY_BYTES:
            raise ValueError(f"takes {LEAST_KEY_BYTES} bytes or more, as openssl rand -hex 32 makes them")
        return value

    @property
    def pseudonym_key(self) -> bytes | None:
        """The key as bytes."""
        return self.audit_pseudonym_key.get_secret_value().encode() if self.audit_pseudonym_key else None


class Instant(int):
    """Milliseconds since the epoch, and how they were given."""

    given: str


class Moment(click.ParamType[Instant]):
    """A time in one of the forms of ``times.EXPECTED``; ages of one command count from the same moment."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        """Milliseconds since the epoch."""
        now = datetime.now().astimezone()
        if ctx is not None:
            now = ctx.find_root().meta.setdefault("relay.now", now)
        try:
            instant = Instant(round(times.parse_time(value, now).timestamp() * 1000))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time: {times.EXPECTED}", param, ctx)
        instant.given = value
        return instant


class WholeNumber(click.ParamType[int]):
    """A whole number between two others, both included."""

    name = "number"

    def __init__(self, low: int, high: int = INT64_MAX) -> None:
        self._low, self._high = low, high

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or not self._low <= number <= self._high:
            allowed = f"of {self._low} or more" if self._high == INT64_MAX else f"from {self._low} to {self._high}"
            self.fail(f"{value!r} is not a whole number {allowed}", param, ctx)
        return number


class RowId(click.ParamType[int]):
    """An outbox id, as ``4711`` or ``#4711``."""

    name = "id"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The id."""
        digits = str(value).removeprefix("#")
        if not re.fullmatch(r"[0-9]{1,19}", digits) or not 1 <= int(digits) <= INT64_MAX:
            self.fail(
                f"{value!r} is not an outbox id: expected a number such as 4711, the outboxId of the webhook's answer",
                param,
                ctx,
            )
        return int(digits)


class Words(click.ParamType[str]):
    """Text for the record: not blank, in one line, and no longer than anybody reads."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as given."""
        if len(value) > MOST_CHARACTERS:
            self.fail(f"{len(value)} characters are too many: takes up to {MOST_CHARACTERS}", param, ctx)
        if not value.strip() or not value.isprintable():
            self.fail(f"{value!r} is blank or holds characters that cannot be shown", param, ctx)
        return value


class Value(click.ParamType[str]):
    """What a row holds: any text but an empty one, for senders choose it."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as given."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return value or self.fail("it is empty", param, ctx)


class Address(Value):
    """An e-mail address, or ``-``: then it is read, so that it is in no list of processes and no shell's history."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address as given, or as read from the terminal or standard input."""
        if value == "-":
            value = click.prompt("address", err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
        return super().convert(value, param, ctx)


class Reason(Words):
    """Words that go on record for good, so no e-mail address is among them."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as given."""
        super().convert(value, param, ctx)
        if _ADDRESS.search(value):
            self.fail(
                "the reason is kept on record: name rows by their outbox id, not by an e-mail address", param, ctx
            )
        return value


def _needed_unless_dry(ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    if value is None and not is_dry_run(ctx):
        raise click.UsageError("--reason is missing: every change says why, for the audit", ctx)
    return value or ""


def is_dry_run(ctx: click.Context) -> bool:
    """Whether the command only shows what it would do: nothing goes on record, so it needs no reason and no actor."""
    return bool(ctx.params.get("dry_run"))


JSON = click.option("--json", "json_lines", is_flag=True, help="Print JSON, one object per line.")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, is_eager=True, help="Show what would happen and change nothing; needs no --reason."
)
YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
REASON = click.option(
    "--reason", type=Reason(), callback=_needed_unless_dry, help="Why, for the audit; needed for every change."
)
ACTOR = click.option(
    "--as", "actor", type=Words(), help="Who acts, for the audit [default: RELAY_ACTOR or the OS user]"
)
"""The options of every verb that changes something."""


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether the operator wants it; without a terminal only ``--yes`` says so."""
    if yes:
        return True
    if not sys.stdin.isatty():
        click.echo("nothing is changed: without a terminal, give --yes", err=True)
        return False
    if not click.confirm(question, err=True):
        click.echo("nothing is changed", err=True)
        raise click.exceptions.Exit(FAILED)
    return True


_FILTERS = (
    click.option("--id", "ids", multiple=True, type=RowId(), help="The row with this outbox id; may be repeated."),
    click.option("--interaction", type=Value(), help="Rows of the interaction with this id."),
    click.option(
        "--state",
        type=click.Choice([state.value for state in RowState]),
        metavar="STATE",
        help=f"Rows in this state: {', '.join(RowState)}.",
    ),
    click.option("--channel", type=Value(), help="Rows of this channel, such as voice."),
    click.option("--error", type=Value(), help="Rows whose error contains this text, in upper or lower case."),
    click.option(
        "--since", type=Moment(), help="Rows received at this time or later: 2026-01-31T08:00, 21:00, yesterday, 1h30m."
    ),
    click.option("--until", type=Moment(), help="Rows received before this time; takes the same forms as --since."),
    click.option("--all", "everything", is_flag=True, help="All rows, instead of a filter."),
)


def row_filters(command: F) -> F:
    """The filters of every verb that takes rows; ``rows_from`` makes a ``RowFilter`` of what they give."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def filter_from(given: dict[str, Any]) -> RowFilter:
    """The rows that the filters name, without a look at ``--all``.

    Args:
        given: the values of ``row_filters``' options; they are taken out of it.

    Raises:
        click.UsageError: no time is both since ``--since`` and before ``--until``.
    """
    since, until = given.pop("since"), given.pop("until")
    if since is not None and until is not None and since >= until:
        raise click.UsageError(
            f"--since {since.given} ({told_time(since)}) is not before --until {until.given} ({told_time(until)}): "
            "--since takes the earlier time, --until the later one"
        )
    return RowFilter(
        ids=given.pop("ids"),
        interaction_id=given.pop("interaction"),
        state=given.pop("state"),
        channel=given.pop("channel"),
        error=given.pop("error"),
        since_ms=since,
        until_ms=until,
    )


def rows_from(given: dict[str, Any]) -> RowFilter:
    """As ``filter_from``; without a filter and without ``--all`` a usage error."""
    everything = given.pop("everything")
    wanted = filter_from(given)
    if (wanted == RowFilter()) != everything:
        raise click.UsageError("name the rows by a filter such as --id or --since, or all of them by --all, not both")
    return wanted


_OPTIONS = {
    "interaction_id": "--interaction",
    "state": "--state",
    "channel": "--channel",
    "error": "--error",
    "email": "--email",
}


def as_options(wanted: RowFilter) -> list[str]:
    """The filter as options: the same rows whenever they are given, for times stand in it as they are now.

    An address is left out: the command asks for it.
    """
    options = [part for row_id in wanted.ids for part in ("--id", str(row_id))]
    for name, option in _OPTIONS.items():
        if (value := getattr(wanted, name)) is not None:
            options += [option, "-" if name == "email" else value]
    for option, at_ms in (("--since", wanted.since_ms), ("--until", wanted.until_ms)):
        if at_ms is not None:
            options += [option, datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")]
    return options


def who_acts(named: str | None, settings: OperatorSettings) -> str:
    """The actor on record: ``--as``, ``RELAY_ACTOR``, or the OS user; root and unknown users must be named.

    A dry run goes on no record, so it works for everybody.
    """
    if actor := (named or settings.relay_actor or "").strip():
        if not named and (len(actor) > MOST_CHARACTERS or not actor.isprintable()):
            raise click.UsageError("RELAY_ACTOR is too long, or holds characters that cannot be shown")
        return actor
    user = os_user()
    if (user == "root" or user.startswith("uid ")) and not is_dry_run(click.get_current_context()):
        raise click.UsageError(f"this runs as {user}: say who you are with --as NAME or RELAY_ACTOR")
    return user


@contextmanager
def operations() -> Iterator[tuple[Operations, OperatorSettings]]:
    """The operators' verbs on the outbox of the environment."""
    with outbox_of(OperatorSettings) as (engine, settings):
        yield Operations(engine), settings


@contextmanager
def outbox_of(kind: type[S], *, answer_seconds: float = ANSWER_SECONDS) -> Iterator[tuple[Engine, S]]:
    """The outbox of the environment, with its settings.

    Args:
        kind: of settings.
        answer_seconds: how long the database may leave one statement unanswered.
    """
    settings = load(kind, os.environ)
    engine = create_outbox_engine(settings.database_url.get_secret_value(), answer_seconds=answer_seconds)
    try:
        _refuse_missing_file(engine)
        yield engine, settings
    except OutboxError as error:
        raise rights.named(engine, rights.OPERATOR, error) from None
    finally:
        engine.dispose()


def _refuse_missing_file(engine: Engine) -> None:
    """SQLite would make an empty one: whoever looks for rows in the wrong folder must hear so."""
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
        raise UnsafeDatabaseError(
            f"DATABASE_URL names {engine.url.database}, which does not exist: "
            "correct it, or make the outbox with relay migrate"
        )


def nothing_matched(told: str) -> NoReturn:
    """End with exit code 3, and a word of why."""
    click.echo(told, err=True)
    sys.exit(NOTHING_MATCHED)
