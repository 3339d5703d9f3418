"""What a reader typed into the address or a form: values, and a message next to each that cannot be used."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from console.pages.render import LAST_MS
from outbox.errors import InvalidRequestError
from outbox.operators.attribution import check_reason
from outbox.operators.rows import RowFilter, parse_row_id
from outbox.operators.times import parse_duration, parse_time
from outbox.states import RowState

MAX_TEXT_CHARACTERS = 1_000
TIME_FORMS = "2026-01-31T08:00 (UTC unless it says otherwise), 21:00, yesterday, or an age such as 2h"


class Query:
    """Reads values one by one, and collects what is wrong with them.

    Args:
        typed: the values as they were typed.

    Attributes:
        errors: a message for each name whose value cannot be used.
    """

    def __init__(self, typed: Mapping[str, str]) -> None:
        self._typed = typed
        self.errors: dict[str, str] = {}

    def text(self, name: str) -> str | None:
        """Return a text; None: none was given."""
        value = self._typed.get(name, "")
        if "\0" in value:
            self.errors[name] = "the character NUL cannot be stored, so no row has it"
            return None
        if len(value) > MAX_TEXT_CHARACTERS:
            self.errors[name] = f"{len(value):,} characters are too many: at most {MAX_TEXT_CHARACTERS:,}"
            return None
        return value or None

    def number(self, name: str) -> int | None:
        """Return a positive number, thousands separated or not; None: none was given."""
        typed = self._typed.get(name, "").strip()
        if not typed:
            return None
        if not re.fullmatch(r"[0-9]{1,3}(,[0-9]{3}){1,4}|[0-9]{1,15}", typed) or not int(typed.replace(",", "")):
            self.errors[name] = "expected a positive number such as 500"
            return None
        return int(typed.replace(",", ""))

    def duration(self, name: str) -> float | None:
        """Return a duration in seconds; None: it cannot be used."""
        try:
            return parse_duration(self._typed.get(name, "").strip())
        except ValueError as error:
            self.errors[name] = str(error)
            return None

    def reason(self) -> str:
        """Return the reason of an action, which the audit log keeps; empty: it cannot be used."""
        typed = self._typed.get("reason", "").strip()
        try:
            return check_reason(typed)
        except InvalidRequestError as error:
            self.errors["reason"] = str(error) if typed else "say why: the audit log keeps it"
            return ""

    def row_id(self, name: str) -> int | None:
        """Return an outbox id; None: none was given."""
        typed = self._typed.get(name, "").strip()
        if not typed:
            return None
        number = parse_row_id(typed)
        if number is None:
            self.errors[name] = "expected an outbox id: a number such as 4711"
        return number

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """Return one of some words; None: none was given."""
        typed = self._typed.get(name, "").strip()
        if typed and typed not in choices:
            self.errors[name] = f"expected {' or '.join(choices)}"
            return None
        return typed or None

    def time_ms(self, name: str, now: datetime) -> int | None:
        """Return a time in milliseconds since the epoch; None: none was given."""
        typed = self._typed.get(name, "").strip()
        if not typed:
            return None
        try:
            at_ms = round(parse_time(typed, now, UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            self.errors[name] = f"expected a time: {TIME_FORMS}"
            return None
        if 0 <= at_ms <= LAST_MS:
            return at_ms
        self.errors[name] = "expected a time from 1970 to 9999"
        return None


def row_filter(query: Query, *, state: bool = True) -> RowFilter:
    """Read the filters of the command line from a query."""
    now = datetime.now(UTC)
    since_ms, until_ms = query.time_ms("since", now), query.time_ms("until", now)
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        query.errors["since"] = "expected a time before the other one"
    return RowFilter(
        state=query.choice("state", [each.value for each in RowState]) if state else None,
        channel=query.text("channel"),
        error=query.text("error"),
        since_ms=since_ms,
        until_ms=until_ms,
    )
