"""What is wrong right now, by subject, for ``/readyz``, the log and the shard's row: said once, not repeated."""

import threading
from collections.abc import Callable
from time import monotonic

import structlog

log = structlog.get_logger(__name__)

ENRICHMENT, INFERENCE = "enrichment", "inference"
"""Subjects that no shard has for itself: what keeps rows, or the calls after them, waiting."""


class Health:
    """Conditions of one relay process, and whether its loop turns; safe to use from many threads."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._lock = threading.Lock()
        self._conditions: dict[str, str] = {}
        self._clock = clock
        self._turned_at = clock()

    def record_liveness(self) -> None:
        """Note that the relay's loop has come round once more."""
        self._turned_at = self._clock()

    def liveness_age_seconds(self) -> float:
        """Since the relay's loop came round; a restart may help if that is long."""
        return self._clock() - self._turned_at

    def degraded(self, subject: str, reason: str) -> bool:
        """Note that ``subject`` waits, and why; log it and return True if that is news."""
        with self._lock:
            news = self._conditions.get(subject) != reason
            self._conditions[subject] = reason
        if news:
            log.warning("%s waits: %s", subject, reason, action="degraded", subject=subject)
        return news

    def recovered(self, subject: str) -> bool:
        """Note that ``subject`` is in order; log it and return True if that is news."""
        with self._lock:
            news = self._conditions.pop(subject, None) is not None
        if news:
            log.info("%s goes on", subject, action="recovered", subject=subject)
        return news

    def shared_condition(self) -> str | None:
        """What shards that are in order tell on their rows all the same; None while all is well."""
        told = self.conditions()
        return "; ".join(f"{name}: {told[name]}" for name in (ENRICHMENT, INFERENCE) if name in told) or None

    def conditions(self) -> dict[str, str]:
        """Subject to reason, of everything that waits."""
        with self._lock:
            return dict(self._conditions)
