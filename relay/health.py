"""What is wrong right now, by subject, for ``/readyz``, the log and the shard's row: said once, not repeated."""

import threading

import structlog

log = structlog.get_logger(__name__)

ENRICHMENT, INFERENCE = "enrichment", "inference"
"""Subjects of what waits while the shards are in order; told on the shards' rows too."""


class Health:
    """Conditions of one relay process; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conditions: dict[str, str] = {}

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

    def conditions(self) -> dict[str, str]:
        """Subject to reason, of everything that waits."""
        with self._lock:
            return dict(self._conditions)
