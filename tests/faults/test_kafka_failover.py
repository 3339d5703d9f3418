"""Brokers that a producer needs are silent, or the transaction coordinator moves while earlier producers are fenced."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from time import monotonic

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import NewTopic
from structlog.testing import capture_logs

from relay.errors import NoAnswerError, TransactionFailedError
from relay.kafka.producer import Publisher
from relay.kafka.progress import destination
from testkit.proxied_services import ProxiedKafka
from testkit.proxy import BOTH_DIRECTIONS, kafka_messages
from testkit.topic import create_topics

INIT_PRODUCER_ID, RESPONSE_BYTES, ERROR_AT = 22, 26, 13
"""API key of the request, and length of its response and place of its error code, with the length prefix."""


class Refusal:
    """Replaces the answers to requests for a producer id, as a ``split`` of a proxy.

    Args:
        code: the error code that they have instead.
    """

    def __init__(self, code: int) -> None:
        self.active, self._code = True, struct.pack(">h", code)
        self._requests: set[int] = set()
        """Correlation ids."""

    def __call__(self, source: socket) -> Iterator[bytes]:
        """Yield the messages of a connection."""
        for message in kafka_messages(source):
            key, _, correlation = struct.unpack_from(">hhi", message, 4)
            if key == INIT_PRODUCER_ID:
                self._requests.add(correlation)
            (answered,) = struct.unpack_from(">i", message, 4)
            if self.active and len(message) == RESPONSE_BYTES and answered in self._requests:
                yield message[:ERROR_AT] + self._code + message[ERROR_AT + 2 :]
            else:
                yield message


@contextmanager
def refused(kafka: ProxiedKafka, code: int) -> Iterator[Refusal]:
    """Let the broker answer requests for a producer id with an error within the block."""
    kafka.proxy.split = refusal = Refusal(code)
    try:
        yield refusal
    finally:
        kafka.proxy.split = kafka_messages


class FastClock:
    """A clock that goes faster from when its rate is set."""

    def __init__(self) -> None:
        self._rate, self._since, self._shown = 1.0, monotonic(), 0.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self._shown + self._rate * (monotonic() - self._since)

    @property
    def rate(self) -> float:
        """How many seconds it goes in one."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate, self._since, self._shown = rate, monotonic(), self()


def publisher(kafka: ProxiedKafka, stopping: Callable[[], bool], clock: Callable[[], float] = monotonic) -> Publisher:
    """Return a publisher that has not fenced earlier ones yet."""
    config, progress = {"bootstrap.servers": kafka.proxied_servers}, destination("failover-progress", "outbox", 0)
    return Publisher(config, "failover-01", "failover", progress, stopping, clock=clock)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.CONCURRENT_TRANSACTIONS,
    ],
)
def test_fencing_waits_while_the_coordinator_moves(code: int, proxied_kafka: ProxiedKafka) -> None:
    """While its coordinator refuses for some seconds, a producer waits; the takeover is not started again."""
    waits = 0
    with refused(proxied_kafka, code) as refusal:

        def work_from_the_second_wait() -> bool:
            nonlocal waits
            waits += 1
            refusal.active = waits < 2
            return False

        publisher(proxied_kafka, work_from_the_second_wait).fence()
    assert waits >= 2, "the coordinator did not refuse"


def test_a_coordinator_that_stays_away_is_named(proxied_kafka: ProxiedKafka) -> None:
    """The error says what is missing and what to do, not only that there was no answer in time."""
    publisher(proxied_kafka, lambda: False).fence()  # the first one waits until the broker has a topic of transactions
    with refused(proxied_kafka, KafkaError.COORDINATOR_NOT_AVAILABLE):
        fencing = publisher(proxied_kafka, lambda: False, lambda: 10 * monotonic())
        with pytest.raises(TransactionFailedError, match=r"COORDINATOR_NOT_AVAILABLE.*bring back the brokers"):
            fencing.fence()


def test_nothing_more_is_asked_of_a_silent_broker(proxied_kafka: ProxiedKafka) -> None:
    """A transaction whose records are not acknowledged is given up without an abort, for which it would wait again."""
    topics = [NewTopic(name, 1, 1) for name in ("failover", "failover-progress")]
    create_topics(proxied_kafka.client_config, *topics)
    clock = FastClock()
    silent = publisher(proxied_kafka, lambda: False, clock)
    silent.fence()
    clock.rate = 10
    unanswered = pytest.raises(NoAnswerError, match="did not answer in")
    with capture_logs() as logs, proxied_kafka.proxy.half_open(BOTH_DIRECTIONS), unanswered:
        silent.publish([(b"key", b"value", [], None)], b"progress")
    assert not logs
