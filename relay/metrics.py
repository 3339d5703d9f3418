"""The relay's metrics. A metric's help text is its documentation; no label holds personal data."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
ROWS = (1, 10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 50_000)
DELIVERY_SAMPLES = 50
"""Rows of a transaction whose delivery time is observed: enough for a histogram, cheap for a large batch."""


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
        self.lag = Gauge(
            "cxone_kafka_producer_lag_estimate",
            "Seconds: age of the oldest unsent row of the shards owned.",
            registry=registry,
        )
        self.rows = Gauge("outbox_rows", "Rows by state (the owner's shards).", ["state", "shard"], registry=registry)
        self.oldest = Gauge(
            "outbox_oldest_age_seconds", "Age of the oldest row to do.", ["stage", "shard"], registry=registry
        )
        self.delivery = Histogram(
            "outbox_delivery_seconds",
            "From receipt to commit in Kafka, of a sample of each transaction's rows.",
            buckets=SECONDS,
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
        self.not_asked = Counter(
            "outbox_enrichment_not_asked",
            "Interactions that CXone is not asked for: their id is no single segment of a URL's path.",
            registry=registry,
        )
        self.shards_owned = Gauge("outbox_shards_owned", "Shards that this relay sends.", registry=registry)
