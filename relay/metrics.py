"""The relay's metrics, described in docs/metrics.md. No label contains personal data."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from config.version import VERSION
from outbox.operators.audit import VerbTotal

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
VERDICTS = ("marked", "nothing_to_mark", "nothing_sent_yet", "progress_lost", "database_went_back", "kafka_went_back")
TOKEN_OUTCOMES = ("ok", "invalid_credentials", "lacks_scope", "throttled", "refused", "unavailable")
ROWS = (1, 10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 50_000)


class Snapshot(Collector):
    """Gauges that are replaced together, so a scrape never sees parts of two counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families: Sequence[Metric] = ()
        registry.register(self)

    def replace(self, families: Sequence[Metric]) -> None:
        """Export these families from now on."""
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families of the last count."""
        return self._families


class DeliveryHistogram(Collector):
    """How long each row took. The rows of a transaction are sorted into buckets together.

    Observing each row by itself takes a lock and a search per row, too slow for thousands of rows a transaction.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum_seconds = 0.0
        registry.register(self)

    def observe(self, received_at_ms: Iterable[int], now_ms: int) -> None:
        """Count rows that were received at these times and are committed now. The future counts as 0 seconds."""
        received = sorted(received_at_ms)  # nearly sorted already
        # Rows from this index on took no longer than the bucket's bound.
        starts = [bisect_right(received, now_ms - bound * 1000 - 1) for bound in SECONDS]
        ends = [len(received), *starts[:-1]]
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        past = bisect_right(received, now_ms)
        seconds = (past * now_ms - sum(received[:past])) / 1000
        with self._lock:
            self._counts = [count + more for count, more in zip(self._counts, [*counts, starts[-1]], strict=True)]
            self._sum_seconds += seconds

    def collect(self) -> Iterable[Metric]:
        """Return the histogram as it is now."""
        with self._lock:
            counts, seconds = self._counts, self._sum_seconds
        bounds = [*map(floatToGoString, SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
        text = "From receipt to commit in Kafka, for each row."
        yield HistogramMetricFamily("outbox_delivery_seconds", text, buckets, seconds)


class DegradedGauge(Collector):
    """Exports for each subject whether it is degraded.

    Args:
        registry: where it is collected.
        subjects: returns whether each subject is degraded. Reasons are not exported: they may contain names.
    """

    def __init__(self, registry: CollectorRegistry, subjects: Callable[[], dict[str, bool]]) -> None:
        self._subjects = subjects
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return every subject that has been reported."""
        family = GaugeMetricFamily("outbox_degraded", "1 while the subject is degraded.", labels=["subject"])
        for subject, degraded in sorted(self._subjects().items()):
            family.add_metric([subject], degraded)
        yield family


def _initialised(counter: Counter, values: Iterable[str]) -> Counter:
    """Export each value of a label from the start: the rate of a series that appears with 1 lacks that event."""
    for value in values:
        counter.labels(value)
    return counter


class RelayMetrics:
    """The metrics of one relay process.

    Args:
        registry: where they are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.processed = counter("cxone_kafka_messages_processed", "Rows committed to the topic.")
        self.commits = counter("cxone_kafka_transaction_commits", "Kafka transactions committed.")
        self.aborts = counter(
            "cxone_kafka_transaction_aborts",
            "Kafka transactions without a confirmed commit; the progress record shows whether they were committed.",
        )
        self.counted, self.operator_changes = Snapshot(registry), Snapshot(registry)
        """What ``BacklogMetrics`` and ``AuditLog`` count in the database."""
        self.delivery = DeliveryHistogram(registry)
        self.last_commit = gauge(
            "outbox_relay_last_commit_timestamp_seconds", "When this relay last committed a transaction; 0: never."
        )
        self.transaction_rows = histogram("outbox_transaction_rows", "Rows in a Kafka transaction.", buckets=ROWS)
        self.transaction_seconds = histogram(
            "outbox_transaction_seconds", "Duration of a Kafka transaction, from begin to commit.", buckets=SECONDS
        )
        takeovers = counter("outbox_recoveries", "Shard takeovers, by what the progress record showed.", ["verdict"])
        self.recoveries = _initialised(takeovers, VERDICTS)
        self.retries = counter("outbox_retries", "Failed attempts that are retried.", ["stage", "reason"])
        self.retries.labels("kafka", "refused")
        calls = counter("outbox_inference_calls", "Inference calls, by outcome.", ["outcome"])
        self.inference_calls = _initialised(calls, ("done", "retried", "parked"))
        self.call_seconds = histogram(
            "outbox_inference_call_seconds", "Duration of an inference call, answered or not.", buckets=SECONDS
        )
        self.circuit_open = gauge("outbox_inference_circuit_open", "1 while the inference circuit breaker is open.")
        tokens = counter("outbox_token_refreshes", "Requests for a CXone token, by outcome.", ["outcome"])
        self.token_refreshes = _initialised(tokens, TOKEN_OUTCOMES)
        self.enrichment_not_requested = counter(
            "outbox_enrichment_not_asked",
            "Interactions that are not looked up in CXone: their id is not a single path segment of a URL.",
        )
        self.pruned_rows = counter("outbox_pruned_rows", "Rows removed because of OUTBOX_RETENTION, with their calls.")
        ProcessCollector(registry=registry)
        gauge("outbox_build_info", "1, labelled with the running version.", ["version"]).labels(VERSION).set(1)

    def count_changes(self, changes: Iterable[VerbTotal]) -> None:
        """Export the changes by operators; the totals never decrease, as the audit trail is never shortened."""
        labels = ["verb"]
        done = CounterMetricFamily("outbox_operator_changes", "Changes by operators, by verb.", labels=labels)
        rows = CounterMetricFamily("outbox_operator_rows", "Rows that operators changed, by verb.", labels=labels)
        for change in changes:
            done.add_metric([change.verb], change.entries)
            rows.add_metric([change.verb], change.rows)
        self.operator_changes.replace([done, rows])

    def committed(self, received_at_ms: Sequence[int], seconds: float, now_ms: int) -> None:
        """Record a Kafka transaction that was committed now.

        Args:
            received_at_ms: when each of its rows was received.
            seconds: from begin to commit.
            now_ms: milliseconds since the epoch.
        """
        self.transaction_seconds.observe(seconds)
        self.transaction_rows.observe(len(received_at_ms))
        self.commits.inc()
        self.processed.inc(len(received_at_ms))
        self.last_commit.set_to_current_time()
        self.delivery.observe(received_at_ms, now_ms)
