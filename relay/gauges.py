"""What is counted in the database for the metrics: in a thread of its own, for a long backlog takes long to count."""

import threading
from collections.abc import Callable
from time import monotonic

import structlog

from outbox.calls import Calls
from outbox.errors import OutboxError
from outbox.store import Store
from relay.metrics import RelayMetrics

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 5.0
"""Between two counts; longer if counting takes long."""
PAUSE_TIMES = 20
"""The pause is so many times what the count took: counting is a twentieth of a database's time at most."""


class Gauges:
    """Keeps the gauges of one relay.

    Args:
        store: where rows are counted.
        calls: the inference calls; None without inference.
        owned: the shards that this relay sends.
        stop: ends it.
        metrics: of the process.
    """

    def __init__(
        self,
        store: Store,
        calls: Calls | None,
        owned: Callable[[], set[int]],
        stop: threading.Event,
        metrics: RelayMetrics,
    ) -> None:
        self._store, self._calls, self._owned, self._stop, self._metrics = store, calls, owned, stop, metrics

    def run(self) -> None:
        """Count again and again, until the stop; while the database is away the last count stands."""
        pause = 0.0
        while not self._stop.wait(pause):
            began = monotonic()
            try:
                self._count()
            except OutboxError as error:
                log.debug("nothing is counted for now: %s", error)
            except Exception:
                log.exception("the gauges met an error nobody expected", action="unexpected")
            pause = max(PAUSE_SECONDS, (monotonic() - began) * PAUSE_TIMES)

    def _count(self) -> None:
        metrics, owned = self._metrics, self._owned()
        status = [shard for shard in self._store.status() if shard.shard in owned] if owned else []
        calls_age_ms = self._calls.oldest_age_ms() if self._calls else None
        metrics.shards_owned.set(len(owned))
        metrics.rows.clear()  # a shard's gauges are exported by its owner only
        metrics.oldest.clear()
        for shard in status:
            label = str(shard.shard)
            for state in ("pending", "waiting", "parked", "discarded"):
                metrics.rows.labels(state, label).set(getattr(shard, state))
            metrics.oldest.labels("kafka", label).set((shard.oldest_age_ms or 0) / 1000)
        if self._calls:  # they have no shard
            metrics.oldest.labels("inference", "all").set((calls_age_ms or 0) / 1000)
        metrics.lag.set(max((shard.oldest_age_ms or 0 for shard in status), default=0) / 1000)
