"""A topic: made, changed, and read as consumers do."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, OffsetSpec

from testkit.waiting import DEADLINE_SECONDS


class ConsumedRecord(NamedTuple):
    """A record as a consumer sees it."""

    partition: int
    offset: int
    key: str
    value: bytes
    headers: dict[str, str]

    @property
    def outbox_id(self) -> int:
        """From the header."""
        return int(self.headers["outbox-id"])


def read_topic(config: dict[str, Any], topic: str) -> list[ConsumedRecord]:
    """Every record of the topic that a ``read_committed`` consumer sees, partition by partition."""
    admin = AdminClient({**config, "allow.auto.create.topics": False})
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    places = [TopicPartition(topic, number) for number in partitions]
    latest: dict[TopicPartition, Any] = {place: OffsetSpec.latest() for place in places}
    futures = admin.list_offsets(latest, isolation_level=IsolationLevel.READ_UNCOMMITTED)
    ends = {place.partition: future.result().offset for place, future in futures.items()}
    consumer = Consumer(
        {
            **config,
            "group.id": f"test-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in ends])
    seen, open_partitions = [], {number for number, end in ends.items() if end}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while open_partitions:
        assert time.monotonic() < deadline, f"the end of {topic} is not reached: partitions {open_partitions}"
        message = consumer.poll(0.2)
        if message is None:
            continue
        partition, offset = message.partition() or 0, message.offset() or 0
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            if offset >= ends[partition]:
                open_partitions.discard(partition)
            continue
        headers = {name: bytes(value or b"").decode() for name, value in _pairs(message.headers())}
        seen.append(ConsumedRecord(partition, offset, (message.key() or b"").decode(), message.value() or b"", headers))
    consumer.close()
    return seen


def _pairs(headers: Any) -> list[tuple[str, Any]]:
    return list(headers or [])


def assert_exactly_once(seen: Sequence[ConsumedRecord], ids: Sequence[int]) -> None:
    """Each of these rows is in the topic exactly once, nothing else is, and each interaction is in id order."""
    found = [record.outbox_id for record in seen]
    doubled = sorted({number for number in found if found.count(number) > 1}) if len(set(found)) < len(found) else []
    assert not doubled, f"doubled: {doubled[:10]}"
    assert not set(ids) - set(found), f"lost: {sorted(set(ids) - set(found))[:10]}"
    assert not set(found) - set(ids), f"not expected: {sorted(set(found) - set(ids))[:10]}"
    last: dict[str, int] = {}
    for record in seen:
        assert record.outbox_id > last.get(record.key, 0), f"out of order in {record.key}: {record.outbox_id}"
        last[record.key] = record.outbox_id


def create_topics(config: dict[str, Any], *topics: NewTopic) -> None:
    """Create topics."""
    admin = AdminClient(config)  # named, because its end would cancel what it was asked
    for future in admin.create_topics(list(topics)).values():
        future.result(10)


def alter_topic(config: dict[str, Any], topic: str, name: str, value: str) -> None:
    """Change a topic's setting."""
    admin = AdminClient(config)
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
