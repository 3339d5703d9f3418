"""The broker's clock: records with this host's time are accepted, tried in a transaction that is aborted."""

from confluent_kafka import KafkaError, KafkaException

from relay.check.finding import Finding, failure, ok, unknown
from relay.check.transactions import CALL_TIMEOUT_SECONDS, SEE_BROKER_LOG, probe_producer
from relay.kafka.errors import REMEDIES, describe
from relay.settings import RelaySettings

SUBJECT = "broker clock"
PROBE_TIMEOUT_MS = 10_000
"""After this time the broker aborts a probe's transaction that was left open."""


def check_clock(settings: RelaySettings) -> Finding:
    """Check whether the broker accepts a record with this host's time.

    The progress topic must exist, and the relay must have the right to write to it.
    """
    refused: list[KafkaError] = []
    timeouts = {"transaction.timeout.ms": PROBE_TIMEOUT_MS, "message.timeout.ms": PROBE_TIMEOUT_MS}
    producer = probe_producer(
        settings, **timeouts, on_delivery=lambda error, _message: refused.append(error) if error else None
    )
    try:
        producer.init_transactions(CALL_TIMEOUT_SECONDS)
        producer.begin_transaction()
        producer.produce(settings.kafka_progress_topic, b"", b"check", 0)
        undelivered = producer.flush(CALL_TIMEOUT_SECONDS)
        producer.abort_transaction(CALL_TIMEOUT_SECONDS)
    except KafkaException as exception:
        return judge_clock(exception.args[0])
    if undelivered and not refused:
        return judge_clock(KafkaError(KafkaError._TIMED_OUT))
    return judge_clock(refused[0] if refused else None)


def judge_clock(error: KafkaError | None) -> Finding:
    """Decide what the outcome means; None: the record was accepted."""
    if error is None:
        return ok(SUBJECT, "the broker accepts records with this host's time")
    if error.code() == KafkaError.INVALID_TIMESTAMP:
        detail = f"the broker refuses records with this host's time: {describe(error)}"
        return failure(SUBJECT, detail, REMEDIES[error.code()])
    return unknown(SUBJECT, f"no record could be sent: {describe(error)}", SEE_BROKER_LOG)
