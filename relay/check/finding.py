"""The result of one check."""

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """Whether what was checked is in order."""

    OK = "ok"
    WARNING = "warning"
    """It works, but something may go wrong."""
    UNKNOWN = "unknown"
    """It could not be checked; counts as a warning."""
    FAILURE = "failure"
    """The relay cannot work, or the delivery guarantee does not hold."""


class Finding(NamedTuple):
    """One line of ``relay check``."""

    subject: str
    status: Status
    detail: str
    """What was seen."""
    remedy: str = ""
    """What to do; empty if the status is ok."""


def as_json(finding: Finding) -> dict[str, str]:
    """The finding as ``relay check --json`` prints it."""
    return {
        "subject": finding.subject,
        "verdict": finding.status,
        "seen": finding.detail,
        "cure": finding.remedy,
    }


def ok(subject: str, detail: str) -> Finding:
    """A finding with status ok."""
    return Finding(subject, Status.OK, detail)


def warning(subject: str, detail: str, remedy: str) -> Finding:
    """A finding with status warning."""
    return Finding(subject, Status.WARNING, detail, remedy)


def unknown(subject: str, detail: str, remedy: str) -> Finding:
    """A finding with status unknown."""
    return Finding(subject, Status.UNKNOWN, detail, remedy)


def failure(subject: str, detail: str, remedy: str) -> Finding:
    """A finding with status failure."""
    return Finding(subject, Status.FAILURE, detail, remedy)
