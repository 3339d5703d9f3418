"""Metrics that are counted in the database, in a thread of their own: a long backlog takes long to count."""

import threading
from collections.abc import Callable, Sequence

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from outbox.errors import OutboxError
from outbox.inference_queue import InferenceQueue
from outbox.models import ShardStatus
from outbox.store import Store
from relay.metrics import RelayMetrics
from relay.process.periodic import repeat

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 5.0
"""Between two counts, at least."""
PAUSE_FACTOR = 20
"""The pause is this many times as long as the count, so counting takes at most a twentieth of a database's time."""


class BacklogMetrics:
    """Counts the rows of the shards that this relay owns, and exports them.

    Args:
        store: where rows are counted.
        inference_queue: where calls are counted; None without inference.
        owned: returns the shards that this relay owns.
        stop: ends it.
    """

    def __init__(
        self,
        store: Store,
        inference_queue: InferenceQueue | None,
        owned: Callable[[], set[int]],
        stop: threading.Event,
        metrics: RelayMetrics,
    ) -> None:
        self._store, self._inference_queue, self._owned = store, inference_queue, owned
        self._stop, self._metrics = stop, metrics

    def run(self) -> None:
        """Count until the stop; while the database is down the last count stays."""
        repeat("backlog metrics", self._count, self._stop, pause=_pause, unavailable=_unavailable)

    def _count(self) -> None:
        owned = self._owned()
        status = [shard for shard in self._store.status() if shard.shard in owned] if owned else []
        queue = self._inference_queue
        calls_age_ms = queue.oldest_age_ms() or 0 if queue else None  # of all shards
        offset = self._store.clock_offset_seconds()
        self._metrics.counted.replace([*backlog_families(status, len(owned), calls_age_ms), _clock(offset)])


def _pause(seconds: float) -> float:
    return max(PAUSE_SECONDS, seconds * PAUSE_FACTOR)


def _unavailable(error: OutboxError) -> None:
    log.debug(
        "the backlog cannot be counted: %s", error, action="backlog_count_failed"
    )  # other threads report the outage


def _clock(offset_seconds: float) -> Metric:
    return GaugeMetricFamily(
        "outbox_clock_offset_seconds",
        "How far this process's clock is ahead of the database's; negative: behind.",
        value=offset_seconds,
    )


def backlog_families(status: Sequence[ShardStatus], owned: int, calls_age_ms: int | None) -> list[Metric]:
    """The metrics of the shards that this relay owns."""
    rows = GaugeMetricFamily(
        "outbox_rows", "Rows by state, of the shards that this relay owns.", labels=["state", "shard"]
    )
    oldest = GaugeMetricFamily(
        "outbox_oldest_age_seconds",
        "Age of the oldest unsent row, or of the oldest inference call that is due.",
        labels=["stage", "shard"],
    )
    for shard in status:
        for state in ("pending", "waiting", "parked", "discarded"):
            rows.add_metric([state, str(shard.shard)], getattr(shard, state))
        oldest.add_metric(["kafka", str(shard.shard)], (shard.oldest_age_ms or 0) / 1000)
    if calls_age_ms is not None:
        oldest.add_metric(["inference", "all"], calls_age_ms / 1000)
    lag_seconds = max((shard.oldest_age_ms or 0 for shard in status), default=0) / 1000
    return [
        GaugeMetricFamily(
            "cxone_kafka_producer_lag_estimate",
            "Age of the oldest unsent row of the shards that this relay owns, in seconds.",
            value=lag_seconds,
        ),
        rows,
        oldest,
        GaugeMetricFamily("outbox_shards_owned", "Shards that this relay owns.", value=owned),
    ]
