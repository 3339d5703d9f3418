"""Reading a partition to the end of its range."""

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError

from relay.errors import UnavailableError
from relay.kafka.client import OffsetRange
from relay.kafka.consumer import CommittedReader

STALL_TIMEOUT_SECONDS = 15.0


class Message:
    """A consumed record, or an error event."""

    def __init__(self, offset: int, key: bytes = b"", value: bytes = b"", error: KafkaError | None = None) -> None:
        self.offset = lambda: offset
        self.key = lambda: key
        self.value = lambda: value
        self.error = lambda: error
        self.partition = lambda: 0
        self.topic = lambda: "progress"


class ScriptedConsumer:
    """A consumer of one partition that returns scripted messages; None: nothing arrives."""

    def __init__(self, messages: list[Message | None]) -> None:
        self._messages = iter(messages)

    def __call__(self, *_: object, **__: object) -> "ScriptedConsumer":
        """Instead of the client library's class."""
        return self

    def assign(self, _partitions: object) -> None:
        """Nothing to fetch."""

    def consume(self, _count: int, _seconds: float) -> list[Message]:
        """The next message."""
        message = next(self._messages, None)
        return [] if message is None else [message]

    def close(self) -> None:
        """Nothing to release."""


def reader(messages: list[Message | None]) -> CommittedReader:
    """A reader whose clock advances by 10 s at each look."""
    ticks: Iterator[int] = iter(range(0, 10_000, 10))
    consumer: Any = ScriptedConsumer(messages)
    return CommittedReader({}, consumer, lambda: next(ticks))


def offsets_read(messages: list[Message | None], end: int) -> list[int]:
    """Offsets of the records between 0 and an end."""
    pages = reader(messages).read("progress", {0: OffsetRange(0, end)}, 1, STALL_TIMEOUT_SECONDS)
    return [message.offset() or 0 for page in pages for message in page]


def test_a_long_partition_is_read_for_as_long_as_it_advances() -> None:
    """The timeout applies to a reader that does not advance, not to one that has much to read."""
    messages: list[Message | None] = [Message(offset) for offset in range(4)]
    assert offsets_read(messages, 4) == [0, 1, 2, 3]
    with pytest.raises(UnavailableError, match=r"has not advanced for 15 s \(partition 0 at offset 4 of 5\)"):
        offsets_read(messages, 5)


def test_offsets_without_records_are_counted_by_the_end_of_partition_event() -> None:
    """Control records and aborted data are never delivered, but the end of the range must be reached."""
    end = Message(3, error=KafkaError(KafkaError._PARTITION_EOF))
    assert offsets_read([Message(0), None, end], 3) == [0]


def test_records_behind_the_end_are_not_read() -> None:
    """The last offsets of the range may be control records: then the next record shows that the end was reached."""
    assert offsets_read([Message(0), Message(3)], 2) == [0]


def test_a_missing_right_to_the_group_does_not_matter() -> None:
    """The client asks for the group's coordinator, although nobody joins the group."""
    refused = Message(0, error=KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    assert offsets_read([refused, Message(0)], 1) == [0]


def test_a_missing_right_to_the_topic_is_named() -> None:
    """The remedy names the topic."""
    refused = Message(0, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(UnavailableError, match="grant Read and Describe"):
        offsets_read([refused], 1)
