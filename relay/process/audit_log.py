"""Copies the audit trail's last hash to the relay's log, out of reach of anyone who can write to the table.

A new entry is logged within seconds. If the trail is rewritten, it no longer contains the logged hash, which is logged
as an error at once.
"""

import threading

import structlog
from sqlalchemy import Engine

from outbox.errors import OutboxError
from outbox.operators.audit import AuditHead, AuditTotals
from relay.metrics import RelayMetrics
from relay.process.periodic import repeat

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 5.0
"""Between two reads."""


class AuditLog:
    """Logs each new last hash of one outbox's audit trail, and counts the changes in it.

    Args:
        stop: ends it.
    """

    def __init__(self, engine: Engine, stop: threading.Event, metrics: RelayMetrics) -> None:
        self._heads, self._totals, self._stop, self._metrics = AuditHead(engine), AuditTotals(engine), stop, metrics

    def run(self) -> None:
        """Log new hashes until the stop."""
        repeat("audit log", self._read, self._stop, pause=lambda _: PAUSE_SECONDS, unavailable=_unavailable)

    def _read(self) -> None:
        self._log_head()
        self._metrics.count_changes(self._totals.read())

    def _log_head(self) -> None:
        before, now, rewritten = self._heads.read()
        if rewritten:
            self._totals.restart()
            log.error(
                "the audit trail was rewritten: entry %d had hash %s", before.id, before.hash,
                action="audit_rewritten", entry=before.id, hash=before.hash,
            )  # fmt: skip
        if now.id and now != before:
            log.info("audit entry %d has hash %s", now.id, now.hash, action="audit", entry=now.id, hash=now.hash)


def _unavailable(error: OutboxError) -> None:
    log.debug("the audit trail cannot be read: %s", error)  # other threads report the outage
