"""The audit's last hash, in the relay's log: whoever may write the table cannot change what was logged.

An entry that an operator's command wrote is in the log within seconds; a chain that is written anew does not
hold the hash that was logged, and that is an error at once.
"""

import threading

import structlog
from sqlalchemy import Engine

from outbox.errors import OutboxError
from outbox.operators.audit import AuditHead

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 5.0
"""Between two looks."""


class AuditLog:
    """Logs each new last hash of one outbox's audit, until the stop.

    Args:
        engine: of the outbox.
        stop: ends it.
    """

    def __init__(self, engine: Engine, stop: threading.Event) -> None:
        self._heads, self._stop = AuditHead(engine), stop

    def run(self) -> None:
        """Look again and again."""
        while not self._stop.is_set():
            try:
                self._look()
            except OutboxError as error:  # what else needs the database says so louder
                log.debug("the audit could not be read: %s", error)
            self._stop.wait(PAUSE_SECONDS)

    def _look(self) -> None:
        before, now, rewritten = self._heads.read()
        if rewritten:
            log.error(
                "the audit was changed behind the product's back: entry %d had the hash %s", before.id, before.hash,
                action="audit_rewritten", entry=before.id, hash=before.hash,
            )  # fmt: skip
        if now.id and now != before:
            log.info("audit entry %d has the hash %s", now.id, now.hash, action="audit", entry=now.id, hash=now.hash)
