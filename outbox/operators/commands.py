"""The command that does what an operator asked for, to be copied into a shell."""

import shlex
from datetime import UTC, datetime

from outbox.errors import InvalidRequestError
from outbox.operators.format import escape
from outbox.operators.rows import RowFilter

_FILTER_OPTIONS = {
    "interaction_id": "--interaction",
    "state": "--state",
    "channel": "--channel",
    "error": "--error",
    "email": "--email",
}


def filter_arguments(rows: RowFilter) -> list[str]:
    """Return a filter as command line arguments that select the same rows at any later time.

    Times are absolute. An e-mail address becomes ``-``, which reads it again.

    Raises:
        InvalidRequestError: the filter has a deduplication key, for which commands have no option.
    """
    if rows.key is not None:
        raise InvalidRequestError("a row that was found by its Idempotency-Key is selected by its id")
    arguments = [part for row_id in rows.ids for part in ("--id", str(row_id))]
    for name, option in _FILTER_OPTIONS.items():
        if (value := getattr(rows, name)) is not None:
            arguments += [option, "-" if name == "email" else value]
    for option, at_ms in (("--since", rows.since_ms), ("--until", rows.until_ms)):
        if at_ms is not None:
            arguments += [option, datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")]
    return arguments


def change_arguments(reason: str, actor: str | None = None, rate: int | None = None) -> list[str]:
    """Return rate, actor and reason as command line arguments; what is not given is left out."""
    values = (("--rate", rate and str(rate)), ("--as", actor), ("--reason", reason))
    return [part for option, value in values if value for part in (option, value)]


def format_command(*arguments: str) -> str:
    """Format a ``relay`` command for a shell; non-printable text is written ``$'…'``, which most shells understand."""
    return " ".join(["relay", *map(_quote, arguments)])


def _quote(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    escaped = "".join(f"\\{c}" if c in "\\'" else escape(c) for c in argument)
    return f"$'{escaped}'"
