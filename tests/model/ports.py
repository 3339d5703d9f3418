"""A broker under test, in memory or real, as its clients see it."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import confluent_kafka
import confluent_kafka.admin
from confluent_kafka import IsolationLevel, KafkaError, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec

from testkit.waiting import wait_until
from tests.model import clients
from tests.model.broker import Broker

SECONDS = 20.0
EXPIRATION_SECONDS = 3.0


@dataclass(frozen=True)
class Port:
    """A broker as its clients see it, with two administrative functions."""

    config: dict[str, Any]
    producer: Callable[[dict[str, Any]], Any]
    consumer: Callable[[dict[str, Any]], Any]
    admin: Any
    create: Callable[[str, int | None], None]
    """Creates a topic with one partition, and optionally with a maximum batch size in bytes."""
    wait: Callable[[float], None]
    """Lets seconds pass."""
    clock: Callable[[], float] = monotonic
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    """Tests that run in parallel on one broker must not fence each other."""

    def own(self, name: str) -> str:
        """A transactional id of this test's own."""
        return f"{name}-{self.run}"

    def topic(self, max_message_bytes: int | None = None) -> str:
        """A new topic."""
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
        partition, spec = TopicPartition(topic, 0), OffsetSpec.latest()
        levels = (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
        stable, high = (
            self.admin.list_offsets({partition: spec}, isolation_level=level)[partition].result() for level in levels
        )
        return stable.offset, high.offset

    def wait_for_ends(self, topic: str, stable: int, high: int) -> None:
        """Wait until a topic has these ends; control records are written shortly after a commit is answered."""
        self._wait(lambda: self.ends(topic) == (stable, high), f"the ends of {topic} are {stable} and {high}")

    def read_stable(self, topic: str) -> list[tuple[int, bytes]]:
        """What committed readers see once no transaction is open in the topic."""
        self._wait(lambda: len(set(self.ends(topic))) == 1, f"nothing is open in {topic}")
        return self.read(topic)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def check() -> bool:
            self.wait(0)
            return condition()

        wait_until(check, what)

    def read(self, topic: str, *, committed: bool = True) -> list[tuple[int, bytes]]:
        """Offset and value of every record that a reader sees now."""
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


def in_memory() -> Port:
    """The in-memory broker, with its clients and its clock."""
    broker = Broker(EXPIRATION_SECONDS)
    config = {clients.LINK: clients.Link(broker)}

    def create(topic: str, max_message_bytes: int | None) -> None:
        broker.create(topic)
        if max_message_bytes:
            broker.limits[topic] = max_message_bytes

    admin = clients.AdminClient(config)
    return Port(config, clients.Producer, clients.Consumer, admin, create, broker.pass_time, lambda: broker.now)


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
