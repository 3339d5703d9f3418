"""What commands print: exit codes, escaped data, JSON, times, and commands to copy."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import NoReturn

import click

from outbox.operators.audit import AuditEntry
from outbox.operators.rows import FoundRow

MAX_EXACT_INTEGER = 2**53 - 1
"""JSON readers that store numbers as doubles (jq, JavaScript) lose digits beyond it."""
_TEXT_FIELDS = ("nonce", "timestamp_ms")
"""64-bit numbers that are random or chosen by the sender: always text in JSON."""
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING_MATCHED = 3
    CHECK_FAILED = 4
    PARTLY_DONE = 5


def exit_nothing_matched(message: str) -> NoReturn:
    """Print why there is nothing to do, and exit with ``NOTHING_MATCHED``."""
    click.echo(escape(message), err=True)
    sys.exit(ExitCode.NOTHING_MATCHED)


def print_lines(lines: Iterable[str], empty_message: str) -> None:
    """Print lines as they arrive, or exit with ``NOTHING_MATCHED`` if there are none."""
    printed = False
    for line in lines:
        click.echo(line)
        printed = True
    if not printed:
        exit_nothing_matched(empty_message)


def escape(value: object) -> str:
    """Escape non-printable characters, so that data cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def to_json(value: object) -> str:
    """Encode a value as one line of JSON; numbers that some readers would round become text."""
    return json.dumps(_exact(value))


def _exact(value: object) -> object:
    if isinstance(value, Mapping):
        return {n: str(v) if n in _TEXT_FIELDS and isinstance(v, int) else _exact(v) for n, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_exact(item) for item in value]
    return str(value) if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER else value


def plural(count: int, noun: str) -> str:
    """Format a count and its noun, such as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_shards(shards: Sequence[int]) -> str:
    """Format shard numbers, such as ``shard 3`` or ``shards 0, 1``."""
    return f"shard{'' if len(shards) == 1 else 's'} {', '.join(map(str, shards))}" if shards else "no shard"


def format_age(age_ms: int) -> str:
    """Format an age in its two largest units, such as ``1d 4h``."""
    seconds = age_ms // 1000
    limits = (10**9, 24, 60, 60)
    parts = [f"{seconds // size % limit}{unit}" for (unit, size), limit in zip(_UNITS, limits, strict=True)]
    while len(parts) > 1 and parts[0].startswith("0"):
        parts.pop(0)
    return " ".join(parts[:2])


def format_time(at_ms: int) -> str:
    """Format a time as local ISO 8601 to the second with its offset; ``--since`` accepts it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(timespec="seconds")


def format_actor(entry: AuditEntry) -> str:
    """Format the actor of an audit entry, with the user of the process if that was another."""
    return entry.actor if entry.os_user in (None, entry.actor) else f"{entry.actor} (as {entry.os_user})"


def format_rows(rows: Iterable[FoundRow], *, json_lines: bool) -> Iterator[str]:
    """Yield each row as one line, of JSON or of text."""
    return (to_json(row._asdict()) if json_lines else format_row(row) for row in rows)


def format_row(row: FoundRow) -> str:
    """Format a row as one line."""
    replay = f" replay of {row.replay_of}" if row.replay_of else ""
    replay += f" to {row.topic}" if row.topic else ""
    error = f": {row.error}" if row.error else ""
    subject = f"{row.interaction_id} {row.channel}"
    return escape(f"{row.id:>8} {row.state:<9} {format_time(row.received_at_ms)} {subject}{replay}{error}")


def format_command(*arguments: str) -> str:
    """Format a ``relay`` command for a shell; non-printable text is written ``$'…'``, which most shells understand."""
    return " ".join(["relay", *map(_quote, arguments)])


def _quote(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    escaped = "".join(f"\\{c}" if c in "\\'" else escape(c) for c in argument)
    return f"$'{escaped}'"
