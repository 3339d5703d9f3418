"""Progress records: what each Kafka transaction holds, written in it, and read back when a shard is taken."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from importlib.resources import files
from io import BytesIO
from itertools import chain
from struct import Struct, pack
from time import monotonic
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from outbox.models import RecordRef, RowRef
from relay.errors import StoppedError, UnavailableError
from relay.kafka.errors import REQUEST_SECONDS, LastError, committed_reader, of_partitions, translate_errors

log = logging.getLogger(__name__)

FORMAT, FIRST_FORMAT = b"\x02", b"\x01"
"""First byte of a record: the version of its schema. The first one is still read."""
_SCHEMA = parse_schema(json.loads(files("relay.kafka").joinpath("schemas/progress.avsc").read_text()))
_FIRST_SCHEMA = parse_schema(json.loads(files("relay.kafka").joinpath("schemas/progress-1.avsc").read_text()))
REF = Struct(">qq")
FIRST_WINDOW_OFFSETS = 1_000
WINDOW_GROWTH = 10
PATIENCE_SECONDS = 15.0


class Progress(NamedTuple):
    """What one committed transaction of a shard holds."""

    outbox_id: str
    shard: int
    epoch: int
    sequence: int
    refs: Sequence[RowRef]


class StoredProgress(NamedTuple):
    """A progress record as it stands in the topic."""

    progress: Progress
    ref: RecordRef


def ref_of(sequence: int, offset: int, value: bytes) -> RecordRef:
    """The name of a progress record that stands at an offset."""
    return RecordRef(sequence, offset, hashlib.sha256(value).hexdigest())


def key_of(outbox_id: str, shard: int) -> bytes:
    """Key of a shard's progress records, under which compaction keeps the last one."""
    return f"{outbox_id}/{shard}".encode()


def encode(progress: Progress) -> bytes:
    """A progress record's value."""
    buffer = BytesIO(FORMAT)
    buffer.seek(0, 2)
    value = {
        "outboxId": progress.outbox_id,
        "shard": progress.shard,
        "epoch": progress.epoch,
        "sequence": progress.sequence,
        "rows": pack(f">{2 * len(progress.refs)}q", *chain.from_iterable(progress.refs)),
    }
    schemaless_writer(buffer, _SCHEMA, value)
    return buffer.getvalue()


def decode(value: bytes) -> Progress:
    """The progress record in a value.

    Raises:
        ValueError: a version that this code does not know.
    """
    version = value[:1]
    if version not in {FORMAT, FIRST_FORMAT}:
        raise ValueError(f"progress record of version {version!r}; this relay knows up to {FORMAT!r}: update it")
    found = schemaless_reader(BytesIO(value[1:]), _SCHEMA if version == FORMAT else _FIRST_SCHEMA, None)
    if not isinstance(found, dict):
        raise TypeError("a progress record is an Avro record")
    pairs = REF.iter_unpack(found["rows"]) if version == FORMAT else zip(found["ids"], found["tags"], strict=True)
    refs = [RowRef._make(pair) for pair in pairs]
    return Progress(found["outboxId"], found["shard"], found["epoch"], found["sequence"], refs)


def read_back(
    config: dict[str, object],
    admin: AdminClient,
    partition: tuple[str, int],
    key: bytes,
    stopping: Callable[[], bool],
    below: int | None = None,
) -> StoredProgress | None:
    """The last committed progress record under ``key``; None if there is none.

    With ``below`` it is the last one whose sequence is smaller, as far as compaction has left it.

    To be called after fencing: then no transaction of this shard is open any more. The end is the
    high watermark as uncommitted readers see it, and reading is done only when the position has
    reached it: the last stable offset may stop short of the record that matters.

    Raises:
        UnavailableError: the broker does not answer, or another producer's open transaction is in the way.
        StoppedError
    """
    low, end = bounds(admin, [TopicPartition(*partition)], OffsetSpec.earliest())[partition[1]]
    memory = LastError()
    consumer = committed_reader(config, memory)
    try:
        window, start = FIRST_WINDOW_OFFSETS, end
        while start > low:
            start = max(low, end - window)
            with translate_errors("read the progress topic", memory, UnavailableError):
                found = _last_in_window(consumer, (partition, start, end), (key, below), stopping, memory)
            if found is not None:
                record = decode(found[1])
                return StoredProgress(record, ref_of(record.sequence, *found))
            window *= WINDOW_GROWTH
        return None
    finally:
        consumer.close()


def bounds(admin: AdminClient, places: Sequence[TopicPartition], start: OffsetSpec) -> dict[int, tuple[int, int]]:
    """Of each partition, the offset where to start, and the end as uncommitted readers see it.

    Raises:
        UnavailableError: the broker does not answer.
    """
    with translate_errors("tell a topic's offsets", LastError(), UnavailableError):
        low = admin.list_offsets(dict.fromkeys(places, start), request_timeout=REQUEST_SECONDS)
        high = admin.list_offsets(
            dict.fromkeys(places, OffsetSpec.latest()),
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=REQUEST_SECONDS,
        )
        return {place.partition: (low[place].result().offset, high[place].result().offset) for place in places}


def _last_in_window(
    consumer: Consumer,
    window: tuple[tuple[str, int], int, int],
    wanted: tuple[bytes, int | None],
    stopping: Callable[[], bool],
    memory: LastError,
) -> tuple[int, bytes] | None:
    """Offset and value of the last record wanted from ``start`` up to ``end``, read until ``end`` is reached.

    Args:
        wanted: its key, and what its sequence has to be below; None: anything.
    """
    ((topic, partition), start, end), (key, below) = window, wanted
    consumer.assign([TopicPartition(topic, partition, start)])
    found, position, moved_at = None, start, monotonic()
    while position < end:
        for message in of_partitions([consumer.poll(0.2)]):
            before = position
            position, value = _seen(message, key, position)
            if value is not None and (below is None or decode(value).sequence < below):
                found = position - 1, value
            if position > before:
                moved_at = monotonic()
        if stopping():
            raise StoppedError("asked to stop while reading the progress topic")
        if monotonic() > moved_at + PATIENCE_SECONDS:
            raise UnavailableError(
                memory.told(
                    f"partition {partition} of {topic} cannot be read beyond offset {position} of {end} for "
                    f"{PATIENCE_SECONDS:.0f} s: the broker is slow, or a transaction of another producer is open in it"
                )
            )
    return found


def _seen(message: Message, key: bytes, position: int) -> tuple[int, bytes | None]:
    """The position after a message or end-of-partition event, and the value if it is under ``key``."""
    error = message.error()
    offset = message.offset() or 0
    if error is None:
        return offset + 1, message.value() if message.key() == key else None
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
        # Control records and aborted data are skipped silently; this tells how far.
        return max(position, offset), None
    raise KafkaException(error)
