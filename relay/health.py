"""Conditions of the relay process, for ``/readyz``, the log, and each shard's row; a condition is logged once."""

import threading
from collections.abc import Callable
from time import monotonic

import structlog
from structlog.typing import FilteringBoundLogger

log = structlog.get_logger(__name__)

ENRICHMENT, INFERENCE = "enrichment", "inference"
"""Subjects that concern the rows of every shard."""


class Health:
    """Conditions of one relay process, and whether its main loop runs; thread-safe."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._lock = threading.Lock()
        self._conditions: dict[str, str] = {}
        self._subjects: set[str] = set()
        self._clock = clock
        self._alive_at = clock()

    def record_liveness(self) -> None:
        """Record that the main loop runs."""
        self._alive_at = self._clock()

    def liveness_age_seconds(self) -> float:
        """Seconds since the main loop ran; if that is long, a restart may help."""
        return self._clock() - self._alive_at

    def degraded(self, subject: str, reason: str) -> bool:
        """Record why a subject is degraded. Returns True, and logs it, if the reason is new."""
        with self._lock:
            changed = self._conditions.get(subject) != reason
            self._subjects.add(subject)
            self._conditions[subject] = reason
        if changed:
            log.warning("%s degraded: %s", subject, reason, action="degraded", subject=subject)
        return changed

    def recovered(self, subject: str) -> bool:
        """Record that a subject is healthy. Returns True, and logs it, if it was degraded."""
        with self._lock:
            changed = self._conditions.pop(subject, None) is not None
            self._subjects.add(subject)
        if changed:
            log.info("%s recovered", subject, action="recovered", subject=subject)
        return changed

    def shared_condition(self) -> str | None:
        """The condition that concerns the rows of every shard, healthy ones too; None if there is none."""
        found = self.conditions()
        return "; ".join(f"{name}: {found[name]}" for name in (ENRICHMENT, INFERENCE) if name in found) or None

    def subjects(self) -> dict[str, bool]:
        """Whether each subject is degraded that has ever been reported."""
        with self._lock:
            return {subject: subject in self._conditions for subject in self._subjects}

    def conditions(self) -> dict[str, str]:
        """Subject to reason, for each subject that is degraded."""
        with self._lock:
            return dict(self._conditions)


def report_unexpected(logger: FilteringBoundLogger, subject: str, error: Exception) -> str:
    """Log an exception that no code expects, with its stack trace; returns the reason to report.

    Args:
        logger: of the module that caught it.
        subject: what failed.
        error: the exception. Its text may quote a row, so it is not part of the reason.
    """
    logger.error("%s: unexpected error", subject, action="unexpected", subject=subject, exc_info=error)
    return f"unexpected {type(error).__name__}: see the log; please report it"
