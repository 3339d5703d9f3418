"""What the operators' verbs share: exit codes, filters, who acts, and data made safe for a terminal."""

import getpass
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from config.settings import BaseSettings, SettingsError, load
from outbox.engine import ANSWER_SECONDS, create_outbox_engine
from outbox.errors import OutboxError, UnsafeDatabaseError
from outbox.operations import Operations
from outbox.rows import RowFilter
from outbox.states import RowState
from relay.errors import RelayError
from relay.settings import DAY_SECONDS, Retention, Topics, seconds_of

DONE, FAILED, USAGE, NOTHING_MATCHED, CHECK_FAILED, PARTLY_DONE = range(6)
"""Exit codes."""

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=BaseSettings)
MOST_CHARACTERS = 1_000
"""Of a text that goes on record."""
_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")


class OperatorSettings(BaseSettings):
    """Settings of the verbs that look after rows."""

    relay_actor: str | None = None
    """Who is on record as the one who acts."""
    kafka_replay_topics: Topics = ()
    outbox_retention: Retention = 7 * DAY_SECONDS


class Instant(int):
    """Milliseconds since the epoch, and how they were given."""

    given: str


class Moment(click.ParamType[Instant]):
    """A time: ISO 8601 (local time without an offset), or an age as ``90s``, ``30m``, ``2h``, ``7d``."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        """Milliseconds since the epoch."""
        try:
            seconds = seconds_of(value)
            if seconds is not None:
                moment = datetime.now(UTC) - timedelta(seconds=seconds)
            else:
                moment = datetime.fromisoformat(value)
            instant = Instant(round(moment.timestamp() * 1000))
            instant.given = value
            return instant  # noqa: TRY300 - what fails is above
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: give 2026-01-31T08:00 or an age as 30m, 2h, 7d", param, ctx)


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


DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would happen, change nothing.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
REASON = click.option("--reason", type=Reason(), required=True, help="Why, for the record.")
ACTOR = click.option("--as", "actor", type=Words(), help="Who is on record; RELAY_ACTOR or the OS user without.")
"""The options of every verb that changes something."""


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether the operator wants it; without a terminal only ``--yes`` says so."""
    if yes:
        return True
    if not sys.stdin.isatty():
        click.echo("nothing is changed: without a terminal, give --yes", err=True)
        return False
    click.confirm(question, abort=True, err=True)
    return True


_FILTERS = (
    click.option("--id", "ids", multiple=True, type=click.IntRange(1, 2**63 - 1), help="Outbox id; may be repeated."),
    click.option("--interaction", type=Value(), help="Interaction id."),
    click.option("--state", type=click.Choice([state.value for state in RowState])),
    click.option("--channel", type=Value()),
    click.option("--error", type=Value(), help="A part of the row's error."),
    click.option("--since", type=Moment(), help="Received then or later: ISO 8601, or an age as 2h."),
    click.option("--until", type=Moment(), help="Received before: ISO 8601, or an age as 30m."),
    click.option("--all", "everything", is_flag=True, help="Every row; never implied."),
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
    """
    return RowFilter(
        ids=given.pop("ids"),
        interaction_id=given.pop("interaction"),
        state=given.pop("state"),
        channel=given.pop("channel"),
        error=given.pop("error"),
        since_ms=given.pop("since"),
        until_ms=given.pop("until"),
    )


def rows_from(given: dict[str, Any]) -> RowFilter:
    """As ``filter_from``; without a filter and without ``--all`` a usage error."""
    everything = given.pop("everything")
    wanted = filter_from(given)
    if (wanted == RowFilter()) != everything:
        raise click.UsageError("name the rows by a filter, or every row by --all, not both and not neither")
    return wanted


_OPTIONS = {
    "interaction_id": "--interaction",
    "state": "--state",
    "channel": "--channel",
    "error": "--error",
    "email": "--email",
}


def as_options(wanted: RowFilter) -> list[str]:
    """The filter as options: the same rows whenever they are given, for times stand in it as they are now."""
    options = [part for row_id in wanted.ids for part in ("--id", str(row_id))]
    for name, option in _OPTIONS.items():
        if (value := getattr(wanted, name)) is not None:
            options += [option, value]
    for option, at_ms in (("--since", wanted.since_ms), ("--until", wanted.until_ms)):
        if at_ms is not None:
            options += [option, datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")]
    return options


def as_command(*arguments: str) -> str:
    """``relay`` with arguments, to be copied into a shell; what cannot be shown as ``$'…'``, which most shells know."""
    return " ".join(["relay", *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    shown = "".join(f"\\{c}" if c in "\\'" else escaped(c) for c in argument)
    return f"$'{shown}'"


def who_acts(named: str | None, settings: OperatorSettings) -> str:
    """The actor on record: ``--as``, ``RELAY_ACTOR``, or the OS user; root and unknown users must be named."""
    if actor := (named or settings.relay_actor or "").strip():
        if not named and (len(actor) > MOST_CHARACTERS or not actor.isprintable()):
            raise click.UsageError("RELAY_ACTOR is too long, or holds characters that cannot be shown")
        return actor
    try:
        user = getpass.getuser() if os.getuid() else "root"
    except (KeyError, OSError):
        user = "an unknown user"
    if user in ("root", "an unknown user"):
        raise click.UsageError(f"this runs as {user}: say who you are with --as NAME or RELAY_ACTOR")
    return user


@contextmanager
def operations() -> Iterator[tuple[Operations, OperatorSettings]]:
    """The operators' verbs on the outbox of the environment; what goes wrong is one line and exit code 1."""
    with outbox_of(OperatorSettings) as (engine, settings):
        yield Operations(engine), settings


@contextmanager
def outbox_of(kind: type[S], *, answer_seconds: float = ANSWER_SECONDS) -> Iterator[tuple[Engine, S]]:
    """The outbox of the environment, with its settings; what goes wrong is one line and exit code 1.

    Args:
        kind: of settings.
        answer_seconds: how long the database may leave one statement unanswered.
    """
    try:
        settings = load(kind, os.environ)
        engine = create_outbox_engine(settings.database_url.get_secret_value(), answer_seconds=answer_seconds)
        try:
            _refuse_missing_file(engine)
            yield engine, settings
        finally:
            engine.dispose()
    except (SettingsError, OutboxError, RelayError) as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)
    except SQLAlchemyError as error:  # its message could quote a row
        click.echo(f"database error: {type(error).__name__}", err=True)
        sys.exit(FAILED)


def _refuse_missing_file(engine: Engine) -> None:
    """SQLite would make an empty one: whoever looks for rows in the wrong folder must hear so."""
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
        raise UnsafeDatabaseError(
            f"DATABASE_URL names {engine.url.database}, which does not exist: "
            "correct it, or make the outbox by alembic upgrade head"
        )


def nothing_matched(told: str) -> NoReturn:
    """End with exit code 3, and a word of why."""
    click.echo(told, err=True)
    sys.exit(NOTHING_MATCHED)


def escaped(value: object) -> str:
    """Data that reaches a terminal must not steer it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def told_age(age_ms: int) -> str:
    """An age for people, in its two largest units."""
    seconds = age_ms // 1000
    sizes = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    parts = [f"{seconds // size % limit}{unit}" for (unit, size), limit in zip(sizes, (10**9, 24, 60, 60), strict=True)]
    while len(parts) > 1 and parts[0].startswith("0"):
        parts.pop(0)
    return " ".join(parts[:2])


def told_time(at_ms: int) -> str:
    """A time for people: local, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
