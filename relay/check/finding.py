"""What a check found: a thing, a verdict, what was seen, and the cure."""

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """How a thing stands."""

    OK = "ok"
    WARNING = "warning"
    """It works, but something may go wrong by it."""
    UNKNOWN = "unknown"
    """It could not be seen; counts as a warning."""
    FAILURE = "failure"
    """The relay cannot work so, or the promise does not hold."""


class Finding(NamedTuple):
    """One line of ``relay check``."""

    subject: str
    verdict: Status
    seen: str
    cure: str = ""


def ok(subject: str, seen: str) -> Finding:
    """The thing is as it should be."""
    return Finding(subject, Status.OK, seen)


def warning(subject: str, seen: str, cure: str) -> Finding:
    """It works, but something may go wrong by it."""
    return Finding(subject, Status.WARNING, seen, cure)


def unknown(subject: str, seen: str, cure: str) -> Finding:
    """It could not be seen."""
    return Finding(subject, Status.UNKNOWN, seen, cure)


def failure(subject: str, seen: str, cure: str) -> Finding:
    """The relay cannot work so, or the promise does not hold."""
    return Finding(subject, Status.FAILURE, seen, cure)
