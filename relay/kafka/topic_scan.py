"""What the topic holds: its committed records since a moment, as far as they name rows of an outbox."""

from collections.abc import Iterator
from time import monotonic, time

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec

from outbox.operators.reconcile import TopicRecord
from relay.errors import UnavailableError
from relay.kafka.errors import REQUEST_SECONDS, LastError, committed_reader, of_partitions, translate_errors
from relay.kafka.progress import bounds

PAGE_RECORDS = 2_000
MINUTE_MS = 60_000
OPEN_TRANSACTION_SECONDS = 90.0
"""How long a dead producer's transaction can stay in the way: transaction.timeout.ms, and until the broker looks."""


def committed_since(
    config: dict[str, object], admin: AdminClient, topic: str, since_ms: int
) -> Iterator[list[TopicRecord]]:
    """The topic's records from a moment until now, page by page, ``read_committed``.

    Read until the end that uncommitted readers saw at the beginning: what was committed before the call
    is among them, also behind a transaction that is still open then.

    Args:
        config: of the client.
        admin: a client of the same cluster.
        topic: the rows' topic.
        since_ms: milliseconds since the epoch, compared with the records' time stamps.

    Raises:
        UnavailableError: the broker does not answer, or an open transaction is in the way.
    """
    memory = LastError()
    spans = bounds(admin, _places(admin, topic), _at(since_ms))
    positions = {number: low for number, (low, end) in spans.items() if 0 <= low < end}  # below 0: nothing since
    consumer = committed_reader(config, memory)
    try:
        consumer.assign([TopicPartition(topic, number, low) for number, low in positions.items()])
        moved_at = monotonic()
        while behind := [number for number, at in positions.items() if at < spans[number][1]]:
            with translate_errors(f"read {topic}", memory, UnavailableError):
                messages = of_partitions(consumer.consume(PAGE_RECORDS, 0.2))
                found = [record for message in messages if (record := _seen(message, positions)) is not None]
            if messages:
                moved_at = monotonic()
                yield found
            elif monotonic() - moved_at > OPEN_TRANSACTION_SECONDS:
                raise UnavailableError(
                    memory.told(
                        f"partition(s) {behind} of {topic} cannot be read to the end for "
                        f"{OPEN_TRANSACTION_SECONDS:.0f} s: the broker is slow, or a transaction is open in them"
                    )
                )
    finally:
        consumer.close()


def cut_short(admin: AdminClient, topic: str, since_ms: int) -> list[int]:
    """Partitions whose records since that moment may have been removed (``retention.ms``, ``delete-records``).

    Raises:
        UnavailableError: the broker does not answer.
    """
    places = _places(admin, topic)
    first, since = bounds(admin, places, OffsetSpec.earliest()), bounds(admin, places, _at(since_ms))
    # Below 0: nothing since; then something may be gone only if nothing is left at all.
    return [n for n, (low, end) in first.items() if low and (since[n][0] == low or (since[n][0] < 0 and low == end))]


def kept_since(admin: AdminClient, topic: str, since_ms: int) -> int:
    """The first moment from ``since_ms`` on, to a minute, since which no record has been removed from the topic.

    A partition that retention has emptied has lost nothing younger than ``retention.ms``; without the right to see
    that setting (``DescribeConfigs``) the moment is now.

    Raises:
        UnavailableError: the broker does not answer.
    """
    low, high = since_ms, round(time() * 1000)
    ends = bounds(admin, _places(admin, topic), OffsetSpec.earliest())
    emptied = {number for number, (first, end) in ends.items() if first and first == end}
    if emptied:
        low = min(max(low, high - _retention_ms(admin, topic)), high)
    if not set(cut_short(admin, topic, low)) - emptied:
        return low
    while high - low > MINUTE_MS:
        middle = (low + high) // 2
        low, high = (middle, high) if set(cut_short(admin, topic, middle)) - emptied else (low, middle)
    return high


def _retention_ms(admin: AdminClient, topic: str) -> int:
    """How long records are kept; 0 if that is not to be seen, or if time removes none."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        (future,) = admin.describe_configs([resource], request_timeout=REQUEST_SECONDS).values()
        return max(0, int(future.result(REQUEST_SECONDS * 2)["retention.ms"].value))
    except KafkaException:
        return 0


def _places(admin: AdminClient, topic: str) -> list[TopicPartition]:
    with translate_errors("tell about its topics", LastError(), UnavailableError):
        partitions = admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic].partitions
    return [TopicPartition(topic, number) for number in partitions]


def _at(moment_ms: int) -> OffsetSpec:
    at: OffsetSpec = OffsetSpec.for_timestamp(max(0, moment_ms))  # negative ones have meanings of their own
    return at


def _seen(message: Message, positions: dict[int, int]) -> TopicRecord | None:
    """Note how far a message or end-of-partition event leads; the record, if it names a row."""
    partition, offset = message.partition() or 0, message.offset() or 0
    error = message.error()
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise KafkaException(error)
        positions[partition] = max(positions[partition], offset)
        return None
    positions[partition] = offset + 1
    return _named(message)


def _named(message: Message) -> TopicRecord | None:
    headers = dict(message.headers() or ())
    try:
        outbox_id, received_at = (int(headers[name]) for name in ("outbox-id", "received-at"))  # type: ignore[arg-type]
        return TopicRecord(outbox_id, (message.key() or b"").decode(), received_at)
    except (KeyError, ValueError, TypeError):  # somebody else's record
        return None
