"""The relay's metrics; docs/metrics.md describes each. No label holds personal data."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from config.version import VERSION

disable_created_metrics()  # type: ignore[no-untyped-call] # they double the number of series

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
ROWS = (1, 10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 50_000)


class Snapshot(Collector):
    """Gauges that are replaced all at once: a scrape sees one count or the next, never a part of either."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families: Sequence[Metric] = ()
        registry.register(self)

    def replace(self, families: Sequence[Metric]) -> None:
        """Export these from now on."""
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The families of the last count."""
        return self._families


class DeliveryHistogram(Collector):
    """How long rows took, every one of them: a transaction's rows are sorted into buckets together.

    Observing each by itself costs a lock and a search a row, which thousands of rows a transaction cannot afford.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum_seconds = 0.0
        registry.register(self)

    def observe(self, received_at_ms: Iterable[int], now_ms: int) -> None:
        """Count rows received at these times and committed now; by another clock that may lie ahead, at 0 then."""
        received = sorted(received_at_ms)  # nearly in order already
        # Rows received at or after this index took no longer than the bucket's bound.
        starts = [bisect_right(received, now_ms - bound * 1000 - 1) for bound in SECONDS]
        ends = [len(received), *starts[:-1]]
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        past = bisect_right(received, now_ms)
        seconds = (past * now_ms - sum(received[:past])) / 1000
        with self._lock:
            self._counts = [count + more for count, more in zip(self._counts, [*counts, starts[-1]], strict=True)]
            self._sum_seconds += seconds

    def collect(self) -> Iterable[Metric]:
        """The histogram as it is now."""
        with self._lock:
            counts, seconds = self._counts, self._sum_seconds
        bounds = [*map(floatToGoString, SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
        text = "From receipt to commit in Kafka, of every row."
        yield HistogramMetricFamily("outbox_delivery_seconds", text, buckets, seconds)


class DegradedGauge(Collector):
    """1 for each subject that is degraded right now.

    Args:
        registry: where it is collected.
        conditions: subject to reason; the reason is not exported, it may hold names.
    """

    def __init__(self, registry: CollectorRegistry, conditions: Callable[[], dict[str, str]]) -> None:
        self._conditions = conditions
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The subjects as they are now."""
        family = GaugeMetricFamily("outbox_degraded", "1 while this subject is degraded.", labels=["subject"])
        for subject in sorted(self._conditions()):
            family.add_metric([subject], 1)
        yield family


class RelayMetrics:
    """The metrics of one relay process.

    Args:
        registry: where they are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.processed = Counter("cxone_kafka_messages_processed", "Rows committed to the topic.", registry=registry)
        self.commits = Counter("cxone_kafka_transaction_commits", "Kafka transactions committed.", registry=registry)
        self.aborts = Counter(
            "cxone_kafka_transaction_aborts",
            "Kafka transactions that did not end in a commit known to the relay; the read-back decides.",
            registry=registry,
        )
        self.counted = Snapshot(registry)
        """What ``Gauges`` counts in the database."""
        self.delivery = DeliveryHistogram(registry)
        self.last_commit = Gauge(
            "outbox_relay_last_commit_timestamp_seconds",
            "When this relay last committed a Kafka transaction; 0: not yet.",
            registry=registry,
        )
        self.transaction_rows = Histogram(
            "outbox_transaction_rows", "Rows in a Kafka transaction.", buckets=ROWS, registry=registry
        )
        self.transaction_seconds = Histogram(
            "outbox_transaction_seconds", "From begin to commit.", buckets=SECONDS, registry=registry
        )
        self.recoveries = Counter(
            "outbox_recoveries",
            "Shards taken, by what the progress record proved.",
            ["verdict"],
            registry=registry,
        )
        self.retries = Counter(
            "outbox_retries", "Attempts that failed and are repeated.", ["stage", "reason"], registry=registry
        )
        self.inference_calls = Counter(
            "outbox_inference_calls", "Inference calls by outcome.", ["outcome"], registry=registry
        )
        self.circuit_open = Gauge(
            "outbox_inference_circuit_open",
            "1 while inference is not called, for it fails.",
            registry=registry,
        )
        self.token_refreshes = Counter(
            "outbox_token_refreshes", "Requests for a CXone token by outcome.", ["outcome"], registry=registry
        )
        self.enrichment_skipped = Counter(
            "outbox_enrichment_not_asked",
            "Interactions that CXone is not asked for: their id is no single segment of a URL's path.",
            registry=registry,
        )
        build = Gauge("outbox_build_info", "1, by the version that runs.", ["version"], registry=registry)
        build.labels(VERSION).set(1)
