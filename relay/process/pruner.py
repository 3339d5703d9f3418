"""Prunes rows that are older than ``OUTBOX_RETENTION``, in small steps beside the flow of rows."""

import threading
from time import monotonic

import structlog
from sqlalchemy import Engine

from outbox.errors import OutboxError
from outbox.operators.prune import old_rows, prune_rows
from relay.health import Health
from relay.metrics import RelayMetrics
from relay.process.periodic import repeat

log = structlog.get_logger(__name__)

SUBJECT = "retention"
PAUSE_SECONDS = 30.0
"""Between two passes over the old rows."""
REST_FACTOR = 2.0
"""After each chunk, pruning rests this many times as long as the chunk took."""


class Pruner:
    """Prunes one outbox until the stop. Of several relays one prunes at a time; the others skip the pass.

    Args:
        retention_seconds: how long a row is kept after it was sent or discarded.
        stop: ends it after the chunk in hand.
    """

    def __init__(
        self, engine: Engine, retention_seconds: float, stop: threading.Event, health: Health, metrics: RelayMetrics
    ) -> None:
        self._engine = engine
        self._age_ms = round(retention_seconds * 1000)
        self._stop, self._health, self._metrics = stop, health, metrics

    def run(self) -> None:
        """Prune until the stop."""
        repeat(SUBJECT, self._prune, self._stop, pause=lambda _: PAUSE_SECONDS, unavailable=self._unavailable)

    def _unavailable(self, error: OutboxError) -> None:
        self._health.degraded(SUBJECT, str(error))

    def _prune(self) -> None:
        pruned = self._pass()
        self._health.recovered(SUBJECT)
        if pruned:
            log.info("%d row(s) pruned", pruned, action="pruned", rows=pruned)

    def _pass(self) -> int:
        """Prune what is old; returns the number of rows."""
        total, began = 0, monotonic()
        for rows in old_rows(self._engine, self._age_ms):
            pruned = prune_rows(self._engine, rows) if rows else 0
            if pruned is None:  # another relay prunes
                break
            total += pruned
            self._metrics.pruned_rows.inc(pruned)
            if self._stop.wait((monotonic() - began) * REST_FACTOR):
                break
            began = monotonic()
        return total
