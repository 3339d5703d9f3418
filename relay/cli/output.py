"""What commands print: data made safe for a terminal, JSON, times, and commands to copy."""

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from outbox.operators.audit import AuditEntry


def escaped(value: object) -> str:
    """Data that reaches a terminal must not steer it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


LARGEST_EXACT = 2**53 - 1
"""Beyond it, readers of JSON that keep numbers as doubles (jq, JavaScript) lose digits."""
_TEXT_FIELDS = ("nonce", "timestamp_ms")
"""Numbers of 64 bits that chance or the sender chooses."""


def to_json(value: object) -> str:
    """A value as one line of JSON; a number that not every reader keeps exactly is text, some fields always."""
    return json.dumps(_exact(value))


def _exact(value: object) -> object:
    if isinstance(value, Mapping):
        return {n: str(v) if n in _TEXT_FIELDS and isinstance(v, int) else _exact(v) for n, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_exact(part) for part in value]
    return str(value) if isinstance(value, int) and abs(value) > LARGEST_EXACT else value


def told_age(age_ms: int) -> str:
    """An age for people, in its two largest units."""
    seconds = age_ms // 1000
    sizes = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    parts = [f"{seconds // size % limit}{unit}" for (unit, size), limit in zip(sizes, (10**9, 24, 60, 60), strict=True)]
    while len(parts) > 1 and parts[0].startswith("0"):
        parts.pop(0)
    return " ".join(parts[:2])


def told_actor(entry: AuditEntry) -> str:
    """The actor as named, and the user of the process where that is another."""
    return entry.actor if entry.os_user in (None, entry.actor) else f"{entry.actor} (as {entry.os_user})"


def told_time(at_ms: int) -> str:
    """A time for people, that ``--since`` takes as well: local, to the second, with its offset."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(timespec="seconds")


def as_command(*arguments: str) -> str:
    """``relay`` with arguments, to be copied into a shell; what cannot be shown as ``$'…'``, which most shells know."""
    return " ".join(["relay", *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    shown = "".join(f"\\{c}" if c in "\\'" else escaped(c) for c in argument)
    return f"$'{shown}'"
