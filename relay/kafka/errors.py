"""What each Kafka error means: its text, its remedy, and the relay error that it becomes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from relay.errors import TransactionFailedError

CHECK_LOGIN = "check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM"
CREATE_TOPIC = "create the topic, or grant the relay the right to create it and restart the relay"

REMEDIES: dict[int, str] = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "grant Write and Describe on TransactionalId with the prefix KAFKA_TRANSACTIONAL_ID_PREFIX "
        "(not rights on __transaction_state)"
    ),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (
        "grant Write and Describe on the topic, and Read, Write and Describe on the progress topic"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant Write on the TransactionalId prefix",
    KafkaError.SASL_AUTHENTICATION_FAILED: CHECK_LOGIN,
    KafkaError._AUTHENTICATION: CHECK_LOGIN,
    KafkaError._SSL: "check KAFKA_SSL_CA_LOCATION and the broker's certificate",
    KafkaError.INVALID_TIMESTAMP: (
        "the clocks of this host and of the broker differ by more than the topic's message.timestamp.before.max.ms or "
        "message.timestamp.after.max.ms (one hour): synchronize both hosts with NTP, or raise the topic's setting"
    ),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "raise the broker's transaction.max.timeout.ms, or lower transaction.timeout.ms in KAFKA_CONFIG"
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: CREATE_TOPIC,
    KafkaError._UNKNOWN_TOPIC: CREATE_TOPIC,
    KafkaError._TIMED_OUT: (
        "the relay retries, and first finds out what was committed; if commits keep timing out, bring back the brokers "
        "that hold __transaction_state (transaction.state.log.min.isr), or lower RELAY_BATCH_SIZE"
    ),
    KafkaError.COORDINATOR_NOT_AVAILABLE: (
        "bring back the brokers that hold __transaction_state; its transaction.state.log.replication.factor must not "
        "exceed the number of brokers"
    ),
    KafkaError.NOT_ENOUGH_REPLICAS: ("bring back the partition's replicas: fewer than min.insync.replicas are in sync"),
}
"""What to do about an error, by its code."""

BINDING_ERRORS = (SystemError, BufferError, RuntimeError, UnicodeDecodeError)
"""What the client's binding raises by itself: for one, ``SystemError`` when a callback meets a fenced producer, and
``UnicodeDecodeError`` when the client logs what a broker sent as text, and it is none."""

PERMANENT_ERRORS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_CONFIG,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._UNSUPPORTED_FEATURE,
    }
)
"""Refusals that last until an administrator acts."""

REFUSED = frozenset({KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION, KafkaError._SSL})

_COUNTERS = re.compile(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)")
_VALUE = re.compile(r"""value ("[^"]*"|\S+)""")


class LastError:
    """Remembers the client's last error: a later timeout does not say why it happened."""

    def __init__(self) -> None:
        self.text = ""
        self.refused = False
        """Whether a broker has refused the login, or its certificate was refused: repeating that does not help."""

    def __call__(self, error: KafkaError) -> None:
        """Remember an error. Pass this object to the client as its ``error_cb``."""
        self.refused |= error.code() in REFUSED
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.text:
            self.text = explain(error)

    def add_to(self, reason: str) -> str:
        """The reason, followed by the client's last error."""
        return f"{reason}; before that: {self.text}" if self.text and self.text not in reason else reason


def describe(error: KafkaError) -> str:
    """The client's message and the error's name, without counters, which would make every repetition a new message.

    The value of a refused setting is masked, because it may be a secret.
    """
    message = _COUNTERS.sub("", error.str())
    if error.code() == KafkaError._INVALID_ARG:
        message = _VALUE.sub("value ***", message)
    return f"{message.strip()} ({error.name()})"


def explain(error: KafkaError) -> str:
    """The error as ``describe`` gives it, with its remedy if there is one."""
    remedy = REMEDIES.get(error.code())
    return describe(error) + (f": {remedy}" if remedy else "")


@contextmanager
def translate_errors(
    action: str, last_error: LastError, error_type: Callable[[str], Exception] = TransactionFailedError
) -> Iterator[None]:
    """Raise every error of Kafka's client inside the block as ``error_type``.

    Args:
        action: what Kafka failed to do, for the message.
        last_error: of the client that is used in the block.
        error_type: what to raise.
    """
    try:
        yield
    except KafkaException as exception:
        reason = f"Kafka failed to {action}: {explain(exception.args[0])}"
    except BINDING_ERRORS as exception:
        reason = f"Kafka failed to {action}: {type(exception).__name__}"
    else:
        return
    raise error_type(last_error.add_to(reason))
