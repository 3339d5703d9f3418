"""The topic's committed records since a time, as far as they name rows of an outbox, and which of them are left."""

from collections.abc import Iterator, Mapping
from time import time
from typing import Any

from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from outbox.operators.reconcile import TopicRecord
from relay.errors import UnavailableError
from relay.kafka.client import (
    OffsetRange,
    at_time,
    offset_ranges,
    offsets,
    partitions_of,
    readable_settings,
    topic_metadata,
)
from relay.kafka.consumer import CommittedReader
from relay.kafka.errors import LastError
from relay.kafka.record import OUTBOX_ID, RECEIVED_AT, headers_of, number_of

PAGE_RECORDS, LONG_PAGE_RECORDS = 2_000, 5_000
MINUTE_MS = 60_000
OPEN_TRANSACTION_TIMEOUT_SECONDS = 90.0
"""How long a dead producer's transaction can block readers: transaction.timeout.ms, and until the broker checks it."""


FETCH = {"fetch.message.max.bytes": 4_194_304, "fetch.wait.max.ms": 100}
"""For long reads: larger answers."""
FETCH_AHEAD_KB, MIN_FETCH_AHEAD_KB = 131_072, 1_024
"""What the client may fetch ahead, shared by the partitions; and the least for one of them."""


def ranges_since(
    admin: AdminClient, topic: str, since_ms: int, read: Mapping[int, OffsetRange] | None = None
) -> dict[int, OffsetRange]:
    """The offsets of each partition from a time, or from the end of what was read before, to its present end.

    The end is that of uncommitted readers, behind open transactions.

    Args:
        admin: a client of the cluster.
        topic: the topic.
        since_ms: milliseconds since the epoch, compared with the records' timestamps.
        read: by partition, what was read before.

    Raises:
        UnavailableError: the broker does not answer, the topic does not exist, or it lacks what was read before.
    """
    partitions = _partitions(admin, topic)
    ends = offsets(admin, partitions, OffsetSpec.latest())  # first: a record that is written now is read the next time
    if read:
        if any(ends.get(number, -1) < each.end for number, each in read.items()):
            raise UnavailableError(f"topic {topic} has lost its end, or was created again: it is read anew")
        return {number: OffsetRange(read[number].end if number in read else 0, end) for number, end in ends.items()}
    starts = offsets(admin, partitions, at_time(since_ms))  # below 0: no record since then
    return {number: OffsetRange(starts[number] if starts[number] >= 0 else end, end) for number, end in ends.items()}


def committed_records(config: dict[str, Any], topic: str, ranges: Mapping[int, OffsetRange]) -> Iterator[list[Message]]:
    """Yield the committed records between offsets, page by page; a page may be empty.

    Raises:
        UnavailableError: the broker does not answer, or an open transaction blocks a partition.
    """
    ahead_kb = max(MIN_FETCH_AHEAD_KB, FETCH_AHEAD_KB // max(1, len(ranges)))
    with CommittedReader({**FETCH, "queued.max.messages.kbytes": ahead_kb, **config}) as reader:
        yield from reader.read(topic, ranges, LONG_PAGE_RECORDS, OPEN_TRANSACTION_TIMEOUT_SECONDS)


def is_compacted(admin: AdminClient, topic: str) -> bool:
    """Whether records of the topic are removed once a later one has their key; False if the client may not read that.

    Raises:
        UnavailableError: the broker does not answer.
    """
    return "compact" in readable_settings(admin, topic).get("cleanup.policy", "")


def committed_since(
    config: dict[str, Any], admin: AdminClient, topic: str, since_ms: int
) -> Iterator[list[TopicRecord]]:
    """Yield the topic's committed records from a time until now, page by page.

    The topic is read to its end as uncommitted readers see it at the beginning: everything that was committed before
    the call is included, even behind a transaction that is still open.

    Args:
        config: librdkafka settings of the consumer.
        admin: a client of the same cluster.
        topic: the topic of the rows.
        since_ms: milliseconds since the epoch, compared with the records' timestamps.

    Raises:
        UnavailableError: the broker does not answer, or an open transaction blocks a partition.
    """
    ranges = offset_ranges(admin, _partitions(admin, topic), at_time(since_ms))
    wanted = {number: each for number, each in ranges.items() if each.start >= 0}  # below 0: nothing since then
    with CommittedReader(config) as reader:
        for page in reader.read(topic, wanted, PAGE_RECORDS, OPEN_TRANSACTION_TIMEOUT_SECONDS):
            if page:
                yield [record for message in page if (record := _record(message)) is not None]


def truncated_partitions(admin: AdminClient, topic: str, since_ms: int) -> list[int]:
    """Partitions whose records since a time may have been removed (``retention.ms``, ``delete-records``).

    Raises:
        UnavailableError: the broker does not answer.
    """
    partitions = _partitions(admin, topic)
    all_records = offset_ranges(admin, partitions, OffsetSpec.earliest())
    since = offset_ranges(admin, partitions, at_time(since_ms))
    # Below 0: no record since then. Records may then have been removed only if the partition is empty.
    return [
        number
        for number, (first, end) in all_records.items()
        if first and (since[number].start == first or (since[number].start < 0 and first == end))
    ]


def complete_since(admin: AdminClient, topic: str, since_ms: int) -> int:
    """The first time from ``since_ms`` on, to the minute, since which the topic has lost no record.

    A partition that retention has emptied has lost nothing younger than ``retention.ms``. Without the right to read
    that setting (``DescribeConfigs``) the result is the present time.

    Raises:
        UnavailableError: the broker does not answer.
    """
    low, high = since_ms, round(time() * 1000)
    ranges = offset_ranges(admin, _partitions(admin, topic), OffsetSpec.earliest())
    emptied = {number for number, (first, end) in ranges.items() if first and first == end}
    if emptied:
        low = min(max(low, high - _retention_ms(admin, topic)), high)

    def truncated(time_ms: int) -> bool:
        return not emptied.issuperset(truncated_partitions(admin, topic, time_ms))

    if not truncated(low):
        return low
    while high - low > MINUTE_MS:
        middle = (low + high) // 2
        low, high = (middle, high) if truncated(middle) else (low, middle)
    return high


def _retention_ms(admin: AdminClient, topic: str) -> int:
    """How long records are kept; 0 if the client may not read the setting, or if records do not expire."""
    return max(0, int(readable_settings(admin, topic).get("retention.ms", 0)))


def _partitions(admin: AdminClient, topic: str) -> list[TopicPartition]:
    if partitions := partitions_of(topic_metadata(admin, topic, LastError()), topic):
        return partitions
    raise UnavailableError(f"topic {topic} does not exist")


def _record(message: Message) -> TopicRecord | None:
    """None: the record is not one of an outbox row."""
    headers = headers_of(message)
    row_id, received_at_ms = (number_of(headers.get(name, b"")) for name in (OUTBOX_ID, RECEIVED_AT))
    try:
        key = (message.key() or b"").decode()
    except ValueError:
        return None
    return None if row_id is None or received_at_ms is None else TopicRecord(row_id, key, received_at_ms)
