"""One suite for the broker in memory and for the real one: what the relay relies on, both do alike.

The second part runs the relay's own publisher and read-back on either.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import confluent_kafka
import confluent_kafka.admin
import pytest
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec

import relay.kafka.errors
import relay.kafka.producer
import relay.kafka.progress
from outbox.models import RowRef
from relay.errors import BatchRefusedError, MisconfiguredError, TransactionFailedError, UnavailableError
from relay.kafka.producer import Publisher
from relay.kafka.progress import Progress, StoredProgress, key_of, ref_of
from testkit.services import Kafka
from testkit.services.fixtures import run_service
from testkit.waiting import wait_until
from tests.model import clients
from tests.model.broker import Broker

SECONDS = 20.0
EXPIRATION_SECONDS = 3.0
HASTY = {
    "transactional.id.expiration.ms": str(round(EXPIRATION_SECONDS * 1000)),
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
}
"""So that what takes a week by default is seen in a test."""
LARGE, SMALL = b"a" * 400, b"b" * 40


@dataclass(frozen=True)
class Port:
    """A broker as its clients see it, and two things that only its keeper can do."""

    config: dict[str, Any]
    producer: Callable[[dict[str, Any]], Any]
    consumer: Callable[[dict[str, Any]], Any]
    admin: Any
    create: Callable[[str, int | None], None]
    """Makes a topic of one partition, with a limit of bytes a batch."""
    wait: Callable[[float], None]
    """Lets seconds pass."""
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    """Tests that run side by side on one broker must not fence each other."""

    def own(self, name: str) -> str:
        """A transactional id of this test's own."""
        return f"{name}-{self.run}"

    def topic(self, max_message_bytes: int | None = None) -> str:
        """A topic of its own for a test."""
        name = f"t-{uuid.uuid4().hex[:8]}"
        self.create(name, max_message_bytes)
        return name

    def transactional(self, name: str, timeout_ms: int = 60_000) -> Any:
        """A producer under a transactional id, which fences earlier ones."""
        producer = self.producer(
            {**self.config, "transactional.id": self.own(name), "transaction.timeout.ms": timeout_ms}
        )
        producer.init_transactions(SECONDS)
        return producer

    def ends(self, topic: str) -> tuple[int, int]:
        """Last stable offset and high watermark."""
        place, spec = TopicPartition(topic, 0), OffsetSpec.latest()
        levels = (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
        stable, high = (
            self.admin.list_offsets({place: spec}, isolation_level=level)[place].result() for level in levels
        )
        return stable.offset, high.offset

    def wait_for_ends(self, topic: str, stable: int, high: int) -> None:
        """Wait until it has these ends: a commit is answered a moment before its control records are written."""
        self._wait(lambda: self.ends(topic) == (stable, high), f"the ends of {topic} are {stable} and {high}")

    def acknowledged_sequence(self, topic: str) -> list[tuple[int, bytes]]:
        """What committed readers see once no transaction is open or being ended in it."""
        self._wait(lambda: len(set(self.ends(topic))) == 1, f"nothing is open in {topic}")
        return self.read(topic)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def asked() -> bool:
            self.wait(0)
            return condition()

        wait_until(asked, what)

    def read(self, topic: str, *, committed: bool = True) -> list[tuple[int, bytes]]:
        """Offset and value of every record that a reader sees, up to the end of what it may read."""
        isolation = "read_committed" if committed else "read_uncommitted"
        own: dict[str, Any] = {"group.id": "t", "isolation.level": isolation, "auto.offset.reset": "error"}
        own |= {"enable.partition.eof": True, "enable.auto.commit": False}
        consumer = self.consumer({**self.config, **own})
        consumer.assign([TopicPartition(topic, 0, 0)])
        seen = []
        deadline = monotonic() + SECONDS
        while monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                break
            seen.append((message.offset(), message.value()))
        consumer.close()
        return seen


def in_memory(monkeypatch: pytest.MonkeyPatch) -> Port:
    """The broker in memory; the relay's modules use its clients and its clock."""
    broker = Broker(EXPIRATION_SECONDS)
    config = {clients.LINK: clients.Link(broker)}
    monkeypatch.setattr(relay.kafka.producer, "Producer", clients.Producer)
    monkeypatch.setattr(relay.kafka.errors, "Consumer", clients.Consumer)
    for module in (relay.kafka.producer, relay.kafka.progress):
        monkeypatch.setattr(module, "monotonic", lambda: broker.now)

    def create(topic: str, max_message_bytes: int | None) -> None:
        broker.create(topic)
        if max_message_bytes:
            broker.limits[topic] = max_message_bytes

    return Port(config, clients.Producer, clients.Consumer, clients.AdminClient(config), create, broker.pass_time)


def real(bootstrap_servers: str) -> Port:
    """The real broker."""
    config: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    admin = confluent_kafka.admin.AdminClient(config)

    def create(topic: str, max_message_bytes: int | None) -> None:
        limit = {"max.message.bytes": str(max_message_bytes)} if max_message_bytes else {}
        admin.create_topics([NewTopic(topic, 1, 1, config=limit)])[topic].result(SECONDS)

    def wait(seconds: float) -> None:
        until = monotonic() + seconds
        wait_until(lambda: monotonic() > until, f"{seconds} s passed")

    return Port(config, confluent_kafka.Producer, confluent_kafka.Consumer, admin, create, wait)


@pytest.fixture(params=["memory", "real"])
def port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Port:
    """Either broker; the test runs once on each."""
    if request.param == "memory":
        return in_memory(monkeypatch)
    return real(request.getfixturevalue("kafka").bootstrap_servers)


@pytest.fixture(params=["memory", "real"])
def hasty_port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Port]:
    """Either broker, one that forgets idle transactional ids within seconds."""
    if request.param == "memory":
        yield in_memory(monkeypatch)
        return
    for kafka in run_service(Kafka(tmp_path / "kafka", HASTY)):
        yield real(kafka.bootstrap_servers)


def send(producer: Any, topic: str, *values: bytes) -> None:
    """Produce into an open transaction, and see the records arrive."""
    for value in values:
        producer.produce(topic, value, b"key")
    assert producer.flush(SECONDS) == 0


def commit(producer: Any, topic: str, *values: bytes) -> None:
    """One transaction."""
    producer.begin_transaction()
    send(producer, topic, *values)
    producer.commit_transaction(SECONDS)


# What transactions are -------------------------------------------------------------------------------


def test_a_transaction_is_seen_at_its_commit_and_takes_an_offset_for_it(port: Port) -> None:
    """Open: behind the last stable offset, and readable uncommitted. Committed: one control record follows."""
    topic, producer = port.topic(), port.transactional("a")
    producer.begin_transaction()
    send(producer, topic, b"1", b"2")
    port.wait_for_ends(topic, 0, 2)
    assert port.read(topic) == []
    assert port.read(topic, committed=False) == [(0, b"1"), (1, b"2")]
    producer.commit_transaction(SECONDS)
    port.wait_for_ends(topic, 3, 3)
    commit(producer, topic, b"3")
    assert port.acknowledged_sequence(topic) == [(0, b"1"), (1, b"2"), (3, b"3")]


def test_what_is_aborted_takes_its_offsets_and_is_never_seen(port: Port) -> None:
    """The producer goes on; uncommitted readers see all of it."""
    topic, producer = port.topic(), port.transactional("a")
    producer.begin_transaction()
    send(producer, topic, b"1")
    producer.abort_transaction(SECONDS)
    commit(producer, topic, b"2")
    assert port.acknowledged_sequence(topic) == [(2, b"2")]
    assert port.read(topic, committed=False) == [(0, b"1"), (2, b"2")]


def test_a_transaction_covers_several_topics(port: Port) -> None:
    """All of it is seen, or nothing."""
    topics, producer = [port.topic(), port.topic()], port.transactional("a")
    producer.begin_transaction()
    for topic in topics:
        send(producer, topic, b"1")
    assert [port.read(topic) for topic in topics] == [[], []]
    producer.commit_transaction(SECONDS)
    assert [port.acknowledged_sequence(topic) for topic in topics] == [[(0, b"1")], [(0, b"1")]]


def test_an_open_transaction_hides_what_others_commit_behind_it(port: Port) -> None:
    """Until it ends, either way: the last stable offset stops at its first record."""
    topic, slow, quick = port.topic(), port.transactional("slow"), port.transactional("quick")
    slow.begin_transaction()
    send(slow, topic, b"1")
    commit(quick, topic, b"2")
    port.wait_for_ends(topic, 0, 3)
    assert port.read(topic) == []
    slow.abort_transaction(SECONDS)
    port.wait_for_ends(topic, 4, 4)
    assert port.acknowledged_sequence(topic) == [(1, b"2")]


def test_the_next_holder_of_an_id_aborts_and_fences_the_one_before(port: Port) -> None:
    """What was open is never seen; the earlier producer can neither commit nor send."""
    topic, first = port.topic(), port.transactional("a")
    first.begin_transaction()
    send(first, topic, b"1")
    second = port.transactional("a")
    port.wait_for_ends(topic, 2, 2)
    with pytest.raises(KafkaException):
        first.commit_transaction(SECONDS)
    commit(second, topic, b"2")
    assert port.acknowledged_sequence(topic) == [(2, b"2")]


def test_a_fenced_producer_finds_out_at_its_next_transaction(port: Port) -> None:
    """Also when it was idle: its records are refused, and nothing of it is seen."""
    topic, first = port.topic(), port.transactional("a")
    commit(first, topic, b"1")
    port.transactional("a")
    with pytest.raises(KafkaException):
        commit(first, topic, b"2")
    assert port.acknowledged_sequence(topic) == [(0, b"1")]


def test_a_transaction_times_out_and_its_producer_is_as_good_as_fenced(port: Port) -> None:
    """The broker aborts it; who comes later cannot commit it."""
    topic, producer = port.topic(), port.transactional("a", timeout_ms=1000)
    producer.begin_transaction()
    send(producer, topic, b"1")
    port.wait(1.5)
    port.wait_for_ends(topic, 2, 2)
    with pytest.raises(KafkaException):
        producer.commit_transaction(SECONDS)
    assert port.read(topic) == []


def test_an_idle_id_is_forgotten_and_an_abort_silently_gets_a_new_one(hasty_port: Port) -> None:
    """The first transaction afterwards fails; the same producer goes on after an abort."""
    port = hasty_port
    topic, producer = port.topic(), port.transactional("a")
    commit(producer, topic, b"1")
    port.wait(EXPIRATION_SECONDS + 2)
    with pytest.raises(KafkaException) as raised:
        commit(producer, topic, b"2")
    assert raised.value.args[0].txn_requires_abort()
    producer.abort_transaction(SECONDS)
    commit(producer, topic, b"3")
    assert [value for _, value in port.acknowledged_sequence(topic)] == [b"1", b"3"]


def test_the_broker_refuses_batches_not_records(port: Port) -> None:
    """One record over the topic's limit takes its neighbours with it; the transaction can only be aborted."""
    topic = port.topic(max_message_bytes=300)
    refused: list[int] = []

    def told(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            refused.append(error.code())

    config = {**port.config, "transactional.id": port.own("b"), "on_delivery": told, "linger.ms": 500}
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
    assert [value for _, value in port.acknowledged_sequence(topic)] == [b"1"]


# What the relay makes of it --------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One shard's topics and ids on a port, with the relay's own publisher and read-back."""

    port: Port
    topic: str
    progress_topic: str

    def publisher(self) -> Publisher:
        """A publisher that has fenced those before; as the relay does, another one when that takes too long."""

        def taken() -> Publisher | None:
            progress = (self.progress_topic, 0, key_of("outbox", 0))
            publisher = Publisher(self.port.config, self.port.own(self.topic), self.topic, progress, lambda: False)
            try:
                publisher.fence()
            except TransactionFailedError:
                publisher.close()
                return None
            return publisher

        publisher: Publisher = wait_until(taken, "the shard is taken")
        return publisher

    def read_back(self, below: int | None = None) -> StoredProgress | None:
        """The last progress record; with ``below``, the last one of a smaller sequence."""
        place, key = (self.progress_topic, 0), key_of("outbox", 0)
        return relay.kafka.progress.read_back(self.port.config, self.port.admin, place, key, lambda: False, below)


@pytest.fixture
def shard(port: Port) -> Shard:
    """A shard nobody has used."""
    return Shard(port, port.topic(max_message_bytes=300), port.topic())


def proof(sequence: int) -> tuple[Progress, bytes]:
    """A progress record, and its value."""
    progress = Progress("outbox", 0, 1, sequence, [RowRef(sequence, 77)])
    return progress, relay.kafka.progress.encode(progress)


def committed(shard: Shard) -> Progress | None:
    """What the last progress record holds."""
    found = shard.read_back()
    return found.progress if found else None


def test_progress_is_read_back_as_it_was_committed(shard: Shard) -> None:
    """None at first; then the last committed record, though aborted and control records follow it."""
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
    open_one = shard.port.transactional(shard.topic)
    open_one.begin_transaction()
    send(open_one, shard.progress_topic, b"never committed")
    shard.publisher()
    assert shard.read_back() == last
    assert [value for _, value in shard.port.acknowledged_sequence(shard.topic)] == [b"1", b"2"]


def test_a_fenced_publisher_says_that_its_transaction_failed(shard: Shard) -> None:
    """It commits nothing, and its successor reads back what was committed before."""
    first = shard.publisher()
    first.publish([(b"k", b"1", [], None)], proof(1)[1])
    second = shard.publisher()
    with pytest.raises(TransactionFailedError):
        first.publish([(b"k", b"2", [], None)], proof(2)[1])
    first.close()
    assert committed(shard) == proof(1)[0]
    second.publish([(b"k", b"3", [], None)], proof(2)[1])
    assert [value for _, value in shard.port.acknowledged_sequence(shard.topic)] == [b"1", b"3"]


def test_a_refused_row_and_a_refused_progress_record_are_told_apart(shard: Shard) -> None:
    """Only the first is a row's fault; neither leaves anything in the topics."""
    publisher = shard.publisher()
    with pytest.raises(BatchRefusedError):
        publisher.publish([(b"k", LARGE, [], None)], proof(1)[1])
    other = Shard(shard.port, shard.topic, shard.port.topic(max_message_bytes=80))
    with pytest.raises(MisconfiguredError):
        other.publisher().publish([(b"k", b"1", [], None)], proof(1)[1])
    assert shard.read_back() is None
    assert shard.port.read(shard.topic) == []


def test_reading_back_waits_for_a_foreign_open_transaction_and_names_it(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies behind it is not known yet, so "there is no record" would be a guess."""
    monkeypatch.setattr(relay.kafka.progress, "PATIENCE_SECONDS", 3.0)
    publisher = shard.publisher()
    foreign = shard.port.transactional("foreign")
    foreign.begin_transaction()
    send(foreign, shard.progress_topic, b"open")
    publisher.publish([(b"k", b"1", [], None)], proof(1)[1])
    with pytest.raises(UnavailableError, match="a transaction of another producer is open"):
        shard.read_back()
    foreign.abort_transaction(SECONDS)
    assert committed(shard) == proof(1)[0]
