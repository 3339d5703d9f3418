"""Counts, ages, times and names as operators read them. Only ``escape`` changes what senders wrote."""

from collections.abc import Sequence
from datetime import UTC, datetime

from outbox.operators.audit import AuditEntry

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def escape(value: object) -> str:
    """Escape non-printable characters, so that data cannot control a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


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


def format_duration(seconds: float | None) -> str:
    """Format a duration at the same width whatever it is, such as ``3m 07s`` or ``26h 05m``; None: ``-``."""
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}h {minutes % 60:02}m" if minutes >= 60 else f"{minutes}m {seconds:02}s"


def format_time(at_ms: int) -> str:
    """Format a time as local ISO 8601 to the second with its offset; ``times.parse_time`` accepts it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(timespec="seconds")


def format_actor(entry: AuditEntry) -> str:
    """Format the actor of an audit entry, with the user of the process if that was another."""
    return entry.actor if entry.os_user in (None, entry.actor) else f"{entry.actor} (as {entry.os_user})"
