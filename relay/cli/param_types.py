"""Click parameter types shared by the commands."""

import sys
from datetime import datetime
from typing import NamedTuple

import click

from outbox.errors import InvalidRequestError
from outbox.models import INT64_MAX
from outbox.operators import times
from outbox.operators.attribution import check_reason, check_text
from outbox.operators.rows import parse_row_id
from outbox.operators.times import parse_age, parse_duration


class Timestamp(NamedTuple):
    """A time as the operator typed it."""

    ms: int
    """Milliseconds since the epoch."""
    text: str


class TimeParam(click.ParamType[Timestamp]):
    """A time in one of the formats of ``times.EXPECTED``.

    All ages of one command count back from the same moment.
    """

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Timestamp:
        """Parse the time."""
        now = datetime.now().astimezone()
        if ctx is not None:
            now = ctx.find_root().meta.setdefault("relay.now", now)
        try:
            return Timestamp(round(times.parse_time(value, now).timestamp() * 1000), value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time: {times.EXPECTED}", param, ctx)


class IntegerParam(click.ParamType[int]):
    """An integer from ``low`` to ``high``, both included.

    Unlike ``click.IntRange`` it shows no ``[1<=x<=9223372036854775807]`` in the help.
    """

    name = "number"

    def __init__(self, low: int, high: int = INT64_MAX) -> None:
        self._low, self._high = low, high

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number."""
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or not self._low <= number <= self._high:
            allowed = f"of at least {self._low}" if self._high == INT64_MAX else f"from {self._low} to {self._high}"
            self.fail(f"{value!r} is not an integer {allowed}", param, ctx)
        return number


class RowIdParam(click.ParamType[int]):
    """An outbox id, written ``4711`` or ``#4711``."""

    name = "id"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the id."""
        row_id = parse_row_id(str(value))
        if row_id is None:
            self.fail(
                f"{value!r} is not an outbox id: expected a number such as 4711, the webhook's outboxId",
                param,
                ctx,
            )
        return row_id


class TextParam(click.ParamType[str]):
    """Text for the audit log."""

    name = "text"
    _check = staticmethod(check_text)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text unchanged."""
        try:
            return self._check(value)
        except InvalidRequestError as error:
            self.fail(str(error), param, ctx)


class ReasonParam(TextParam):
    """A reason for the audit log."""

    _check = staticmethod(check_reason)


class NonEmptyParam(click.ParamType[str]):
    """A value of a row: any UTF-8 text but the empty one, because senders choose it."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text unchanged."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return value or self.fail("must not be empty", param, ctx)


class EmailParam(NonEmptyParam):
    """An e-mail address, or ``-`` to read it, which keeps it out of process lists and shell history."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address; for ``-``, read it from the terminal or from standard input."""
        if value == "-":
            value = click.prompt("E-mail address", err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
        return super().convert(value, param, ctx)


class DurationParam(click.ParamType[float]):
    """A duration such as ``90s``, ``1h30m`` or ``2d``, in seconds; see ``times.parse_duration``."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the duration."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class IntervalParam(click.ParamType[float]):
    """An interval in seconds, or a duration.

    Args:
        shortest: in seconds.
        longest: in seconds.
    """

    name = "seconds"

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest, self._longest = shortest, longest

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the interval."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = parse_age(str(value)) or 0.0
        if not self._shortest <= seconds <= self._longest:
            self.fail(f"{value!r} is not a number of seconds from {self._shortest} to {self._longest}", param, ctx)
        return seconds
