"""Reading partitions to their end, as ``read_committed`` consumers see them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from relay.errors import UnavailableError
from relay.kafka.client import LIBRDKAFKA_LOG, OffsetRange
from relay.kafka.errors import LastError, translate_errors

POLL_SECONDS = 0.2
QUEUE_BACKOFF_MS = 10
"""After how long the client asks for more of a partition whose queue was full. By default it is a second: by then the
queue has long been empty, which was four fifths of the time of a long read."""


class CommittedReader:
    """A consumer that reads committed records between given offsets. It joins no group and stores no offsets.

    A context manager: the consumer is closed at the end of the block.

    Args:
        config: librdkafka settings of the client.
        new_consumer: creates the consumer.
        clock: seconds, monotonic.

    Raises:
        UnavailableError: the client refuses its settings.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        new_consumer: Callable[..., Consumer] = Consumer,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._last_error = LastError()
        with translate_errors("create a consumer", self._last_error, UnavailableError):
            self._consumer = new_consumer(
                {
                    "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS,
                    "check.crcs": True,  # a changed progress record would mark other rows
                    **config,
                    "group.id": "outbox-relay-reader",  # required, but never joined
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "error",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    "error_cb": self._last_error,
                    "log_level": 3,  # no warnings about settings that only producers use
                },
                logger=LIBRDKAFKA_LOG,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(
        self, topic: str, ranges: Mapping[int, OffsetRange], page_size: int, stall_timeout_seconds: float
    ) -> Iterator[list[Message]]:
        """Yield the records page by page until every partition has been read to the end of its range.

        A page is empty when nothing arrives for a fraction of a second, so that the caller can check for a stop.

        Args:
            topic: the topic to read.
            ranges: by partition, the offsets to read.
            page_size: most records in a page. With more than 1, an incomplete page costs a wait.
            stall_timeout_seconds: how long to wait for a partition to advance.

        Raises:
            UnavailableError: the broker does not answer or refuses, or an open transaction blocks a partition.
        """
        positions = {number: each.start for number, each in ranges.items() if each.start < each.end}
        self._consumer.assign([TopicPartition(topic, number, at) for number, at in positions.items()])
        advanced_at = self._clock()
        while positions:
            before = dict(positions)
            with translate_errors(f"read {topic}", self._last_error, UnavailableError):
                messages = self._consumer.consume(page_size, POLL_SECONDS)
                page = _accept(messages, ranges, positions)
                self._leave_finished(topic, ranges, positions)
            yield page
            if positions != before:
                advanced_at = self._clock()
            elif self._clock() > advanced_at + stall_timeout_seconds:
                raise UnavailableError(
                    self._last_error.add_to(_stalled(topic, positions, ranges, stall_timeout_seconds))
                )

    def _leave_finished(self, topic: str, ranges: Mapping[int, OffsetRange], positions: dict[int, int]) -> None:
        """Fetch no more of partitions that were read to their end."""
        for number in [number for number, at in positions.items() if at >= ranges[number].end]:
            del positions[number]
            if positions:
                self._consumer.incremental_unassign([TopicPartition(topic, number)])


def _accept(messages: Sequence[Message], ranges: Mapping[int, OffsetRange], positions: dict[int, int]) -> list[Message]:
    """Return the records of their ranges, and move the positions. Verifications read millions in this loop."""
    page = []
    ends = {number: ranges[number].end for number in positions}
    for message in messages:
        number, offset, error = message.partition() or 0, message.offset() or 0, message.error()
        if error is None and offset < ends.get(number, 0):
            positions[number] = offset + 1
            page.append(message)
        elif error is not None and error.code() != KafkaError._PARTITION_EOF:
            _raise_for(message, error)
        elif number in positions:
            # Control records and aborted data are skipped silently: the next record, or the event at the end of
            # the partition, shows that there were some.
            positions[number] = max(positions[number], offset)
    return page


def _raise_for(message: Message, error: KafkaError) -> None:
    if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return  # the client asks for the group's coordinator although nobody joins; it needs no such right
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise UnavailableError(f"no right to read topic {message.topic()}: grant Read and Describe on it")
    raise KafkaException(error)


def _stalled(topic: str, positions: Mapping[int, int], ranges: Mapping[int, OffsetRange], seconds: float) -> str:
    where = ", ".join(f"partition {number} at offset {at} of {ranges[number].end}" for number, at in positions.items())
    return (
        f"reading {topic} has not advanced for {seconds:.0f} s ({where}): the broker is slow, or a transaction of "
        "another producer is open"
    )
