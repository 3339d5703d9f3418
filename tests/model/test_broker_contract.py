"""One suite for the in-memory broker and the real one: both behave alike in everything the relay relies on.

The second part runs the relay's own publisher and read-back on each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox.models import RowRef
from relay.errors import BatchRefusedError, MisconfiguredError, TransactionFailedError, UnavailableError
from relay.kafka.consumer import CommittedReader
from relay.kafka.producer import Publisher
from relay.kafka.progress import (
    STALL_TIMEOUT_SECONDS,
    Progress,
    ProgressReader,
    StoredProgress,
    destination,
    encode,
    ref_of,
)
from testkit.services import Kafka
from testkit.services.fixtures import run_service
from testkit.waiting import wait_until
from tests.model.ports import EXPIRATION_SECONDS, SECONDS, Port, in_memory, real

EXPIRING = {
    "transactional.id.expiration.ms": str(round(EXPIRATION_SECONDS * 1000)),
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
}
"""So that a test sees what takes a week by default."""
LARGE, SMALL = b"a" * 400, b"b" * 40


@pytest.fixture(params=["memory", "real"])
def port(request: pytest.FixtureRequest) -> Port:
    """Either broker; the test runs once on each."""
    if request.param == "memory":
        return in_memory()
    return real(request.getfixturevalue("kafka").bootstrap_servers)


@pytest.fixture(params=["memory", "real"])
def expiring_port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Port]:
    """Either broker, with transactional ids that expire within seconds."""
    if request.param == "memory":
        yield in_memory()
        return
    for kafka in run_service(Kafka(tmp_path / "kafka", EXPIRING)):
        yield real(kafka.bootstrap_servers)


def send(producer: Any, topic: str, *values: bytes) -> None:
    """Produce in an open transaction, and wait until the records have arrived."""
    for value in values:
        producer.produce(topic, value, b"key")
    assert producer.flush(SECONDS) == 0


def commit(producer: Any, topic: str, *values: bytes) -> None:
    """Commit one transaction."""
    producer.begin_transaction()
    send(producer, topic, *values)
    producer.commit_transaction(SECONDS)


# Transactions -------------------------------------------------------------------------------


def test_a_transaction_is_visible_after_its_commit_which_takes_an_offset(port: Port) -> None:
    """Before the commit only uncommitted readers see it; the commit adds one control record."""
    topic, producer = port.topic(), port.transactional("a")
    producer.begin_transaction()
    send(producer, topic, b"1", b"2")
    port.wait_for_ends(topic, 0, 2)
    assert port.read(topic) == []
    assert port.read(topic, committed=False) == [(0, b"1"), (1, b"2")]
    producer.commit_transaction(SECONDS)
    port.wait_for_ends(topic, 3, 3)
    commit(producer, topic, b"3")
    assert port.read_stable(topic) == [(0, b"1"), (1, b"2"), (3, b"3")]


def test_an_aborted_transaction_takes_offsets_and_is_never_visible(port: Port) -> None:
    """The producer can continue; uncommitted readers see the aborted records as well."""
    topic, producer = port.topic(), port.transactional("a")
    producer.begin_transaction()
    send(producer, topic, b"1")
    producer.abort_transaction(SECONDS)
    commit(producer, topic, b"2")
    assert port.read_stable(topic) == [(2, b"2")]
    assert port.read(topic, committed=False) == [(0, b"1"), (2, b"2")]


def test_a_transaction_covers_several_topics(port: Port) -> None:
    """Either all of its records are visible or none."""
    topics, producer = [port.topic(), port.topic()], port.transactional("a")
    producer.begin_transaction()
    for topic in topics:
        send(producer, topic, b"1")
    assert [port.read(topic) for topic in topics] == [[], []]
    producer.commit_transaction(SECONDS)
    assert [port.read_stable(topic) for topic in topics] == [[(0, b"1")], [(0, b"1")]]


def test_an_open_transaction_hides_later_commits(port: Port) -> None:
    """The last stable offset stays at its first record until it is committed or aborted."""
    topic, slow, quick = port.topic(), port.transactional("slow"), port.transactional("quick")
    slow.begin_transaction()
    send(slow, topic, b"1")
    commit(quick, topic, b"2")
    port.wait_for_ends(topic, 0, 3)
    assert port.read(topic) == []
    slow.abort_transaction(SECONDS)
    port.wait_for_ends(topic, 4, 4)
    assert port.read_stable(topic) == [(1, b"2")]


def test_a_new_producer_fences_the_earlier_one_with_its_id(port: Port) -> None:
    """The open transaction is aborted; the earlier producer can neither commit nor send."""
    topic, first = port.topic(), port.transactional("a")
    first.begin_transaction()
    send(first, topic, b"1")
    second = port.transactional("a")
    port.wait_for_ends(topic, 2, 2)
    with pytest.raises(KafkaException):
        first.commit_transaction(SECONDS)
    commit(second, topic, b"2")
    assert port.read_stable(topic) == [(2, b"2")]


def test_a_fenced_idle_producer_fails_at_its_next_transaction(port: Port) -> None:
    """Its records are refused."""
    topic, first = port.topic(), port.transactional("a")
    commit(first, topic, b"1")
    port.transactional("a")
    with pytest.raises(KafkaException):
        commit(first, topic, b"2")
    assert port.read_stable(topic) == [(0, b"1")]


def test_a_producer_cannot_commit_after_the_transaction_timed_out(port: Port) -> None:
    """The broker has aborted it."""
    topic, producer = port.topic(), port.transactional("a", timeout_ms=1000)
    producer.begin_transaction()
    send(producer, topic, b"1")
    port.wait(1.5)
    port.wait_for_ends(topic, 2, 2)
    with pytest.raises(KafkaException):
        producer.commit_transaction(SECONDS)
    assert port.read(topic) == []


def test_a_producer_whose_id_expired_continues_after_an_abort(expiring_port: Port) -> None:
    """Its next transaction fails; the abort silently gets a new producer id."""
    port = expiring_port
    topic, producer = port.topic(), port.transactional("a")
    commit(producer, topic, b"1")
    port.wait(EXPIRATION_SECONDS + 2)
    with pytest.raises(KafkaException) as raised:
        commit(producer, topic, b"2")
    assert raised.value.args[0].txn_requires_abort()
    producer.abort_transaction(SECONDS)
    commit(producer, topic, b"3")
    assert [value for _, value in port.read_stable(topic)] == [b"1", b"3"]


def test_the_broker_refuses_a_batch_as_a_whole(port: Port) -> None:
    """One record over the topic's limit fails the whole batch; the transaction can only be aborted."""
    topic = port.topic(max_message_bytes=300)
    refused: list[int] = []

    def on_delivery(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            refused.append(error.code())

    config = {**port.config, "transactional.id": port.own("b"), "on_delivery": on_delivery, "linger.ms": 500}
    producer = port.producer(config)
    producer.init_transactions(SECONDS)
    producer.begin_transaction()
    for value in (SMALL, LARGE, SMALL):
        producer.produce(topic, value, b"key")
    producer.flush(SECONDS)
    assert refused == [KafkaError.MSG_SIZE_TOO_LARGE] * 3
    with pytest.raises(KafkaException):
        producer.commit_transaction(SECONDS)
    commit(port.transactional("b"), topic, b"1")
    assert [value for _, value in port.read_stable(topic)] == [b"1"]


# The relay's publisher and read-back --------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One shard on a broker, with the relay's own publisher and read-back."""

    port: Port
    topic: str
    progress_topic: str

    def publisher(self) -> Publisher:
        """A publisher that has fenced earlier ones; retries, as the relay does, if that takes too long."""

        def taken() -> Publisher | None:
            publisher = Publisher(
                self.port.config,
                self.port.own(self.topic),
                self.topic,
                destination(self.progress_topic, "outbox", 0),
                lambda: False,
                self.port.producer,
                self.port.clock,
            )
            try:
                publisher.fence()
            except TransactionFailedError:
                publisher.close()
                return None
            return publisher

        publisher: Publisher = wait_until(taken, "the shard is taken over")
        return publisher

    def read_back(
        self, below: int | None = None, stall_timeout_seconds: float = STALL_TIMEOUT_SECONDS
    ) -> StoredProgress | None:
        """The last progress record; with ``below``, the last one of a smaller sequence."""

        def open_reader(config: dict[str, Any]) -> CommittedReader:
            return CommittedReader(config, self.port.consumer, self.port.clock)

        reader = ProgressReader(
            self.port.config,
            self.port.admin,
            self.progress_topic,
            "outbox",
            lambda: False,
            open_reader,
            stall_timeout_seconds,
        )
        return reader.last(0, below)


@pytest.fixture
def shard(port: Port) -> Shard:
    """A shard that was never used."""
    return Shard(port, port.topic(max_message_bytes=300), port.topic())


def proof(sequence: int) -> tuple[Progress, bytes]:
    """A progress record, and its value."""
    progress = Progress("outbox", 0, 1, sequence, [RowRef(sequence, 77)])
    return progress, encode(progress)


def committed(shard: Shard) -> Progress | None:
    """The content of the last progress record."""
    found = shard.read_back()
    return found.progress if found else None


def test_progress_is_read_back_as_it_was_committed(shard: Shard) -> None:
    """None at first, then the last committed record, even if aborted and control records follow it."""
    publisher = shard.publisher()
    assert shard.read_back() is None
    offsets = [
        publisher.publish([(b"k", b"%d" % sequence, [("outbox-id", b"1")], None)], proof(sequence)[1])
        for sequence in (1, 2)
    ]
    last = StoredProgress(proof(2)[0], ref_of(2, offsets[1], proof(2)[1]))
    assert shard.read_back() == last
    assert shard.read_back(below=2) == StoredProgress(proof(1)[0], ref_of(1, offsets[0], proof(1)[1]))
    assert shard.read_back(below=1) is None
    open_producer = shard.port.transactional(shard.topic)
    open_producer.begin_transaction()
    send(open_producer, shard.progress_topic, b"never committed")
    shard.publisher()
    assert shard.read_back() == last
    assert [value for _, value in shard.port.read_stable(shard.topic)] == [b"1", b"2"]


def test_a_fenced_publisher_fails(shard: Shard) -> None:
    """It commits nothing, and its successor reads back the last commit."""
    first = shard.publisher()
    first.publish([(b"k", b"1", [], None)], proof(1)[1])
    second = shard.publisher()
    with pytest.raises(TransactionFailedError):
        first.publish([(b"k", b"2", [], None)], proof(2)[1])
    first.close()
    assert committed(shard) == proof(1)[0]
    second.publish([(b"k", b"3", [], None)], proof(2)[1])
    assert [value for _, value in shard.port.read_stable(shard.topic)] == [b"1", b"3"]


def test_a_refused_row_and_a_refused_progress_record_raise_different_errors(shard: Shard) -> None:
    """Only the first is a row's fault; neither leaves records in the topics."""
    publisher = shard.publisher()
    with pytest.raises(BatchRefusedError, match=r"raise max\.message\.bytes of the topic, then run relay retry"):
        publisher.publish([(b"k", LARGE, [], None)], proof(1)[1])
    other = Shard(shard.port, shard.topic, shard.port.topic(max_message_bytes=80))
    with pytest.raises(MisconfiguredError):
        other.publisher().publish([(b"k", b"1", [], None)], proof(1)[1])
    assert shard.read_back() is None
    assert shard.port.read(shard.topic) == []


def test_a_read_back_fails_behind_an_open_transaction_of_another_producer(shard: Shard) -> None:
    """It cannot know the records behind it, so it must not report that there is none."""
    publisher = shard.publisher()
    foreign = shard.port.transactional("foreign")
    foreign.begin_transaction()
    send(foreign, shard.progress_topic, b"open")
    publisher.publish([(b"k", b"1", [], None)], proof(1)[1])
    with pytest.raises(UnavailableError, match="a transaction of another producer is open"):
        shard.read_back(stall_timeout_seconds=3.0)
    foreign.abort_transaction(SECONDS)
    assert committed(shard) == proof(1)[0]
