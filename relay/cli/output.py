"""What commands print: exit codes, JSON, and rows as lines."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import NoReturn

import click

from outbox.operators.format import escape, format_time
from outbox.operators.rows import FoundRow

MAX_EXACT_INTEGER = 2**53 - 1
"""JSON readers that store numbers as doubles (jq, JavaScript) lose digits beyond it."""
_TEXT_FIELDS = ("nonce", "timestamp_ms")
"""64-bit numbers that are random or chosen by the sender: always text in JSON."""


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


def to_json(value: object) -> str:
    """Encode a value as one line of JSON; numbers that some readers would round become text."""
    return json.dumps(_exact(value))


def _exact(value: object) -> object:
    if isinstance(value, Mapping):
        return {n: str(v) if n in _TEXT_FIELDS and isinstance(v, int) else _exact(v) for n, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_exact(item) for item in value]
    return str(value) if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER else value


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
