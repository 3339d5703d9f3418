"""Pruning by itself: what was settled longer ago than ``OUTBOX_RETENTION``, in small steps beside the flow."""

import threading
from time import monotonic

import structlog
from sqlalchemy import Engine

from outbox.errors import OutboxError
from outbox.operators import prune
from relay.health import Health

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 30.0
"""Between two walks over what is old."""
REST = 2.0
"""For each second of pruning, or of walking over what stays, so long the database is left to the flow."""


class Pruner:
    """Prunes one outbox until the stop. Of several relays one prunes at a time: a walk ends where another prunes.

    Args:
        engine: of the outbox.
        retention_seconds: how long a settled row is kept.
        stop: ends it, at the latest after the chunk in hand.
        health: told while the database does not do its work.
    """

    def __init__(self, engine: Engine, retention_seconds: float, stop: threading.Event, health: Health) -> None:
        self._engine = engine
        self._age_ms = round(retention_seconds * 1000)
        self._stop, self._health = stop, health

    def run(self) -> None:
        """Walk again and again."""
        while not self._stop.is_set():
            try:
                pruned = self._walk()
            except OutboxError as error:
                self._health.degraded("retention", str(error))
            except Exception:
                log.exception("retention met an error nobody expected", action="unexpected")
            else:
                self._health.recovered("retention")
                if pruned:
                    log.info("%d settled row(s) pruned", pruned, action="pruned", rows=pruned)
            self._stop.wait(PAUSE_SECONDS)

    def _walk(self) -> int:
        total, began = 0, monotonic()
        for rows in prune.old_rows(self._engine, self._age_ms):
            pruned = prune.prune_rows(self._engine, rows) if rows else 0
            if pruned is None:
                break
            total += pruned
            if self._stop.wait((monotonic() - began) * REST):
                break
            began = monotonic()
        return total
