"""Errors of Kafka's client, translated into the relay's errors with their remedies; consumers that only read."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient

from relay.errors import MisconfiguredError, TransactionFailedError, UnavailableError

REFUSED_RECORDS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
    }
)
"""Error codes that a record brings about, not the state of a service."""
REFUSED_WHOLE = frozenset({KafkaError.INVALID_TIMESTAMP})
"""Error codes that come with a record and are not its fault: its time stamp is this host's clock."""

REQUEST_SECONDS = 10.0
"""How long a broker may take for one answer, where the call says so."""

REMEDIES: dict[int, str] = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "grant Write and Describe on TransactionalId with the prefix KAFKA_TRANSACTIONAL_ID_PREFIX "
        "(not rights on __transaction_state)"
    ),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (
        "grant Write and Describe on the topic, and Read, Write and Describe on the progress topic"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant Write on the TransactionalId prefix",
    KafkaError.SASL_AUTHENTICATION_FAILED: "check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM",
    KafkaError._AUTHENTICATION: "check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM",  # noqa: SLF001
    KafkaError._SSL: "check KAFKA_SSL_CA_LOCATION and the broker's certificate",  # noqa: SLF001
    KafkaError.INVALID_TIMESTAMP: (
        "the clocks of this host and of the broker differ by more than the topic's message.timestamp.before.max.ms or "
        "message.timestamp.after.max.ms (an hour): let both hosts follow NTP"
    ),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "raise the broker's transaction.max.timeout.ms, or lower transaction.timeout.ms in KAFKA_CONFIG"
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topic, or restart the relay with the right to create it",
    KafkaError._UNKNOWN_TOPIC: "create the topic, or restart the relay with the right to create it",  # noqa: SLF001
    KafkaError._TIMED_OUT: (  # noqa: SLF001
        "the relay finds out by itself what was committed; if it repeats at the commit, bring back the brokers that "
        "hold __transaction_state (transaction.state.log.min.isr), or lower RELAY_BATCH_SIZE"
    ),
    KafkaError.COORDINATOR_NOT_AVAILABLE: (
        "bring back the brokers that hold __transaction_state: its transaction.state.log.replication.factor must not "
        "exceed their number"
    ),
    KafkaError.NOT_ENOUGH_REPLICAS: "bring the partition's replicas back: fewer than min.insync.replicas are in sync",
}


# Where logging is not set up, as on the command line, what the client complains about is told by ``LastError``.
logging.getLogger("relay.librdkafka").addHandler(logging.NullHandler())

_COUNTED = re.compile(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)")
_VALUE = re.compile(r"""value ("[^"]*"|\S+)""")


class LastError:
    """The last thing the client complained about: time-outs do not tell why by themselves."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, error: KafkaError) -> None:
        """Remember an error; given to the client as its ``error_cb``."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.last:  # noqa: SLF001 - follows the true reason
            self.last = explain(error)

    def told(self, reason: str) -> str:
        """The reason, with what the client complained about before."""
        return f"{reason}; before that: {self.last}" if self.last and self.last not in reason else reason


def describe(error: KafkaError) -> str:
    """What the client says, without what it counts, and the error's name; a setting's value, which may be a secret,
    is masked.
    """
    said = _COUNTED.sub("", error.str())
    if error.code() == KafkaError._INVALID_ARG:  # noqa: SLF001
        said = _VALUE.sub("value ***", said)
    return f"{said.strip()} ({error.name()})"


def explain(error: KafkaError) -> str:
    """What the client says, and the cure where there is a known one."""
    cure = REMEDIES.get(error.code())
    return describe(error) + (f": {cure}" if cure else "")


@contextmanager
def translate_errors(
    doing: str, memory: LastError, raised: Callable[[str], Exception] = TransactionFailedError
) -> Iterator[None]:
    """Turn whatever the client raises inside the block into one error of ours.

    ``SystemError`` is what the binding raises when a callback meets a fenced producer.
    """
    try:
        yield
    except KafkaException as exception:
        raise raised(memory.told(f"Kafka failed to {doing}: {explain(exception.args[0])}")) from None
    except (SystemError, BufferError, RuntimeError) as exception:
        raise raised(memory.told(f"Kafka failed to {doing}: {type(exception).__name__}")) from None


def admin_client(config: dict[str, Any], memory: LastError) -> AdminClient:
    """A client for questions and topics, to be dropped after use: the next one reads certificates and keys anew.

    Raises:
        MisconfiguredError: the client refuses its settings, or cannot read a file that they name.
    """
    with translate_errors("make an admin client", memory, MisconfiguredError):
        complete: dict[str, Any] = {**config, "error_cb": memory}
        return AdminClient(complete, logger=logging.getLogger("relay.librdkafka"))


def of_partitions(read: Iterable[Message | None]) -> list[Message]:
    """What a ``committed_reader`` has read of its partitions: records, their ends, and errors.

    Left out are complaints about its group: nobody joins it, so what may not be done with it is not missed. The
    client asks who coordinates it all the same, and the relay has no right to any group.
    """
    messages = ((message, message.error()) for message in read if message is not None)
    return [m for m, error in messages if error is None or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED]


def committed_reader(config: dict[str, Any], memory: LastError) -> Consumer:
    """A consumer for looking: of what is committed, told of each partition's end, joining and storing nothing.

    Raises:
        UnavailableError: the client refuses its settings.
    """
    with translate_errors("make a consumer", memory, UnavailableError):
        return Consumer(
            {
                **config,
                "group.id": "outbox-relay-looks",  # never joined, nothing is stored under it
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "error_cb": memory,
                "log_level": 3,  # no warnings that a consumer does not need the producer's settings
            },
            logger=logging.getLogger("relay.librdkafka"),
        )
