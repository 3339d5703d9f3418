"""What the operators' verbs share: exit codes, filters, who acts, and data made safe for a terminal."""

import getpass
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from config.settings import BaseSettings, SettingsError, load
from outbox.engine import create_outbox_engine
from outbox.errors import OutboxError
from outbox.operations import Operations
from outbox.rows import RowFilter
from outbox.states import RowState

DONE, FAILED, USAGE, NOTHING_MATCHED, CHECK_FAILED, PARTLY_DONE = range(6)
"""Exit codes."""

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class OperatorSettings(BaseSettings):
    """Settings of the verbs that look after rows."""

    relay_actor: str | None = None
    """Who is on record as the one who acts."""


class Moment(click.ParamType[int]):
    """A time: ISO 8601 (local time without an offset), or an age as ``90s``, ``30m``, ``2h``, ``7d``."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the epoch."""
        try:
            if age := re.fullmatch(r"(\d{1,6})([smhd])", value):
                moment = datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
            else:
                moment = datetime.fromisoformat(value)
            return round(moment.timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: give 2026-01-31T08:00 or an age as 30m, 2h, 7d", param, ctx)


class Words(click.ParamType[str]):
    """Text that is not blank and that a database can store."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as given."""
        if not value.strip() or not value.isprintable():
            self.fail(f"{value!r} is blank or holds characters that cannot be shown", param, ctx)
        return value


_FILTERS = (
    click.option("--id", "ids", multiple=True, type=click.IntRange(1, 2**63 - 1), help="Outbox id; may be repeated."),
    click.option("--interaction", type=Words(), help="Interaction id."),
    click.option("--state", type=click.Choice([state.value for state in RowState])),
    click.option("--channel", type=Words()),
    click.option("--error", type=Words(), help="A part of the row's error."),
    click.option("--since", type=Moment(), help="Received then or later: ISO 8601, or an age as 2h."),
    click.option("--until", type=Moment(), help="Received before: ISO 8601, or an age as 30m."),
    click.option("--all", "everything", is_flag=True, help="Every row; never implied."),
)


def row_filters(command: F) -> F:
    """The filters of every verb that takes rows; ``rows_from`` makes a ``RowFilter`` of what they give."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def rows_from(given: dict[str, Any]) -> RowFilter:
    """The rows that the filters name; without a filter and without ``--all`` a usage error.

    Args:
        given: the values of ``row_filters``' options; they are taken out of it.
    """
    everything = given.pop("everything")
    wanted = RowFilter(
        ids=given.pop("ids"),
        interaction_id=given.pop("interaction"),
        state=given.pop("state"),
        channel=given.pop("channel"),
        error=given.pop("error"),
        since_ms=given.pop("since"),
        until_ms=given.pop("until"),
    )
    if (wanted == RowFilter()) != everything:
        raise click.UsageError("name the rows by a filter, or every row by --all, not both and not neither")
    return wanted


def who_acts(named: str | None, settings: OperatorSettings) -> str:
    """The actor on record: ``--as``, ``RELAY_ACTOR``, or the OS user; root and unknown users must be named."""
    if actor := (named or settings.relay_actor or "").strip():
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
    try:
        settings = load(OperatorSettings, os.environ)
        engine = create_outbox_engine(settings.database_url.get_secret_value())
        try:
            yield Operations(engine), settings
        finally:
            engine.dispose()
    except (SettingsError, OutboxError) as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)
    except SQLAlchemyError as error:  # its message could quote a row
        click.echo(f"the database did not do its work: {type(error).__name__}", err=True)
        sys.exit(FAILED)


def escaped(value: object) -> str:
    """Data that reaches a terminal must not steer it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def told_time(at_ms: int) -> str:
    """A time for people: local, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
