"""Transactions: allowed and possible, tried under a transactional id that no shard uses."""

from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from relay.check.broker import ClientErrors
from relay.check.finding import Finding, failure, ok, unknown
from relay.kafka.client import LIBRDKAFKA_LOG
from relay.kafka.errors import REMEDIES, describe
from relay.settings import RelaySettings, kafka_producer_config

CALL_TIMEOUT_SECONDS = 15.0
CHECK_STATE_TOPIC = (
    "check that the broker's __transaction_state has its replicas: transaction.state.log.replication.factor and "
    "transaction.state.log.min.isr must not exceed the number of brokers that are up"
)
SEE_BROKER_LOG = "see the broker's log"


def acl_command(settings: RelaySettings) -> str:
    """The command that grants the relay a right, without the right."""
    user = settings.kafka_sasl_username or "…"
    return f"kafka-acls.sh --bootstrap-server {settings.kafka_bootstrap_servers} --add --allow-principal User:{user}"


def probe_producer(settings: RelaySettings, **config: Any) -> Producer:
    """A producer under the id ``<prefix>check``: a shard's id would fence its relay.

    Raises:
        KafkaException: the client refuses its settings.
    """
    transactional_id = f"{settings.kafka_transactional_id_prefix}check"
    complete = {**kafka_producer_config(settings), "transactional.id": transactional_id, **config}
    return Producer(complete, logger=LIBRDKAFKA_LOG)


def check_transactions(settings: RelaySettings) -> Finding:
    """Check whether the relay may begin transactions, and the broker accepts their timeout."""
    errors = ClientErrors()
    try:
        producer = probe_producer(settings, error_cb=errors)
    except KafkaException as exception:
        remedy = "correct KAFKA_CONFIG: it takes a JSON object of librdkafka's producer settings"
        return failure("transactions", describe(exception.args[0]), remedy)
    try:
        producer.init_transactions(CALL_TIMEOUT_SECONDS)
    except KafkaException as exception:
        return judge_transactions(settings, exception.args[0], errors.main)
    return ok("transactions", "init_transactions succeeds, and the broker accepts the timeout")


def judge_transactions(settings: RelaySettings, error: KafkaError, cause: KafkaError | None) -> Finding:
    """Decide why ``init_transactions`` failed.

    Args:
        error: what the call raised.
        cause: what the client reported before.
    """
    code = error.code()
    if code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        remedy = (
            f"{REMEDIES[code]}: {acl_command(settings)} --operation Write --operation Describe "
            f"--transactional-id {settings.kafka_transactional_id_prefix} --resource-pattern-type prefixed"
        )
        return failure("transactions", describe(error), remedy)
    if code == KafkaError.INVALID_TRANSACTION_TIMEOUT:
        return failure("transactions", f"{describe(error)}: transaction.max.timeout.ms is too low", REMEDIES[code])
    if code == KafkaError._TIMED_OUT:
        before = f"; before that: {describe(cause)}" if cause else ""
        return failure("transactions", f"no transaction coordinator{before}", CHECK_STATE_TOPIC)
    return unknown("transactions", describe(error), REMEDIES.get(code, SEE_BROKER_LOG))
