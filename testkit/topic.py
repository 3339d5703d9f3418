"""Creates, alters and reads topics, independently of the product's own reader."""

import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from testkit.waiting import DEADLINE_SECONDS, wait_until


class ConsumedRecord(NamedTuple):
    """A record as a consumer receives it."""

    partition: int
    offset: int
    key: str
    value: bytes
    headers: dict[str, str]

    @property
    def outbox_id(self) -> int:
        """Id of the row, from the header."""
        return int(self.headers["outbox-id"])


def read_topic(config: dict[str, Any], topic: str) -> list[ConsumedRecord]:
    """Read every record of the topic that a ``read_committed`` consumer sees."""
    admin = AdminClient({**config, "allow.auto.create.topics": False})
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    latest: dict[TopicPartition, Any] = {TopicPartition(topic, number): OffsetSpec.latest() for number in partitions}
    futures = admin.list_offsets(latest, isolation_level=IsolationLevel.READ_UNCOMMITTED)
    ends = {partition.partition: future.result().offset for partition, future in futures.items()}
    assert all(end >= 0 for end in ends.values()), f"no answer arrived: {ends}"  # the client reports no error then
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
    records, open_partitions = [], {number for number, end in ends.items() if end}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while open_partitions:
        assert time.monotonic() < deadline, f"not read to the end: partitions {open_partitions} of {topic}"
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
        key, value = (message.key() or b"").decode(), message.value() or b""
        records.append(ConsumedRecord(partition, offset, key, value, headers))
    consumer.close()
    return records


def _pairs(headers: Any) -> list[tuple[str, Any]]:
    return list(headers or [])


def assert_exactly_once(records: Sequence[ConsumedRecord], ids: Sequence[int]) -> None:
    """Assert that each row is in the topic exactly once, and nothing else, with each interaction in id order."""
    counts = Counter(record.outbox_id for record in records)
    duplicates = sorted(number for number, count in counts.items() if count > 1)
    assert not duplicates, f"duplicated: {duplicates[:10]}"
    assert not set(ids) - set(counts), f"lost: {sorted(set(ids) - set(counts))[:10]}"
    assert not set(counts) - set(ids), f"unexpected: {sorted(set(counts) - set(ids))[:10]}"
    last: dict[str, int] = {}
    for record in records:
        assert record.outbox_id > last.get(record.key, 0), f"out of order in {record.key}: {record.outbox_id}"
        last[record.key] = record.outbox_id


def create_topics(config: dict[str, Any], *topics: NewTopic) -> None:
    """Create topics, and wait until each of their partitions can be used."""
    admin = AdminClient(config)  # kept in a variable: its destruction would cancel the request
    for future in admin.create_topics(list(topics)).values():
        future.result(10)
    for topic in topics:
        partitions = [TopicPartition(topic.topic, number) for number in range(topic.num_partitions)]
        wait_until(lambda: _have_leaders(admin, partitions), f"{topic.topic} can be used")  # noqa: B023 - called at once


def _have_leaders(admin: AdminClient, partitions: Sequence[TopicPartition]) -> bool:
    futures = admin.list_offsets(dict.fromkeys(partitions, OffsetSpec.latest()))
    try:
        return all(future.result(10).offset >= 0 for future in futures.values())
    except KafkaException:
        return False


def alter_topic(config: dict[str, Any], topic: str, name: str, value: str) -> None:
    """Change a setting of a topic, and wait until the broker has it: it learns of it from the controller."""
    configure(config, ResourceType.TOPIC, topic, {name: value})
    admin, resource = AdminClient(config), ConfigResource(ResourceType.TOPIC, topic)

    def is_set() -> bool:
        (future,) = admin.describe_configs([resource]).values()
        return bool(future.result(10)[name].value == value)

    wait_until(is_set, f"{topic} has {name}={value}")


def configure(config: dict[str, Any], kind: ResourceType, name: str, settings: Mapping[str, str | None]) -> None:
    """Change settings of a topic or a broker; None: back to the default."""
    entries = [
        ConfigEntry(
            key,
            value or "",
            incremental_operation=AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET,
        )
        for key, value in settings.items()
    ]
    admin = AdminClient(config)
    resource = ConfigResource(kind, name, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
