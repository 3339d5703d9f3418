"""What is counted in the database for the metrics: in a thread of its own, for a long backlog takes long to count."""

import threading
from collections.abc import Callable, Sequence
from time import monotonic

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from outbox.errors import OutboxError
from outbox.inference_queue import InferenceQueue
from outbox.models import ShardStatus
from outbox.store import Store
from relay.metrics import RelayMetrics

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 5.0
"""Between two counts; longer if counting takes long."""
PAUSE_FACTOR = 20
"""The pause is so many times what the count took: counting is a twentieth of a database's time at most."""


class BacklogMetrics:
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
        calls: InferenceQueue | None,
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
            pause = max(PAUSE_SECONDS, (monotonic() - began) * PAUSE_FACTOR)

    def _count(self) -> None:
        owned = self._owned()
        status = [shard for shard in self._store.status() if shard.shard in owned] if owned else []
        calls_age_ms = self._calls.oldest_age_ms() or 0 if self._calls else None  # calls have no shard
        self._metrics.counted.replace(_families(status, len(owned), calls_age_ms))


def _families(status: Sequence[ShardStatus], owned: int, calls_age_ms: int | None) -> list[Metric]:
    """What is exported of the shards that this relay owns."""
    rows = GaugeMetricFamily("outbox_rows", "Rows by state (the owner's shards).", labels=["state", "shard"])
    oldest = GaugeMetricFamily(
        "outbox_oldest_age_seconds", "Age of the oldest row to do (the owner's shards).", labels=["stage", "shard"]
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
            "Seconds: age of the oldest unsent row of the shards owned.",
            value=lag_seconds,
        ),
        rows,
        oldest,
        GaugeMetricFamily("outbox_shards_owned", "Shards that this relay sends.", value=owned),
    ]
