"""Progress records: each Kafka transaction writes one that names its rows, and a relay reads the last one back."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from itertools import chain
from struct import Struct, pack
from typing import Any, NamedTuple

from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from outbox.models import RecordRef, RowRef
from relay.errors import StoppedError, UnavailableError
from relay.kafka.client import OffsetRange, offset_ranges
from relay.kafka.consumer import CommittedReader

FORMAT = b"\x02"
"""First byte of a record: the version of its schema."""
STALL_TIMEOUT_SECONDS = 15.0
_SCHEMA = parse_schema(json.loads(files("relay.kafka").joinpath("schemas/progress.avsc").read_text()))
_ROW_REF = Struct(">qq")
_FIRST_WINDOW_OFFSETS = 1_000
_WINDOW_GROWTH = 10


class Progress(NamedTuple):
    """The contents of a progress record: one committed transaction of a shard."""

    outbox_id: str
    shard: int
    epoch: int
    sequence: int
    refs: Sequence[RowRef]


class StoredProgress(NamedTuple):
    """A progress record in the topic."""

    progress: Progress
    ref: RecordRef


class ProgressDestination(NamedTuple):
    """Where a shard's progress records are written."""

    topic: str
    partition: int
    key: bytes


def destination(topic: str, outbox_id: str, shard: int) -> ProgressDestination:
    """The shard's partition, and the key under which compaction keeps its last record."""
    return ProgressDestination(topic, shard, f"{outbox_id}/{shard}".encode())


def ref_of(sequence: int, offset: int, value: bytes) -> RecordRef:
    """The reference to a progress record at an offset."""
    return RecordRef(sequence, offset, hashlib.sha256(value).hexdigest())


def encode(progress: Progress) -> bytes:
    """Encode a progress record's value."""
    buffer = BytesIO()
    buffer.write(FORMAT)
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
    """Decode a progress record's value.

    Raises:
        ValueError: the record has another version, or is malformed.
    """
    if value[:1] != FORMAT:
        raise ValueError(
            f"progress record of version {value[:1]!r}, this relay reads version {FORMAT!r}: run the release that "
            "wrote it, or a later one"
        )
    try:
        found: Any = schemaless_reader(BytesIO(value[1:]), _SCHEMA, None)
        refs = [RowRef._make(pair) for pair in _ROW_REF.iter_unpack(found["rows"])]
    except Exception as error:  # noqa: BLE001 - the library raises errors of many kinds
        raise ValueError(
            f"progress record is malformed ({type(error).__name__}): it was damaged, or no relay wrote it"
        ) from None
    return Progress(found["outboxId"], found["shard"], found["epoch"], found["sequence"], refs)


@dataclass(frozen=True)
class ProgressReader:
    """Reads the last committed progress record of a shard.

    Call it after fencing: then no transaction of the shard is open any more.

    Args:
        config: librdkafka settings of the consumer.
        admin: a client of the same cluster.
        topic: the progress topic.
        outbox_id: the outbox's identity.
        stopping: whether the relay was asked to stop.
        open_reader: opens a consumer.
        stall_timeout_seconds: how long to wait for the topic's next record.
    """

    config: dict[str, Any]
    admin: AdminClient
    topic: str
    outbox_id: str
    stopping: Callable[[], bool]
    open_reader: Callable[[dict[str, Any]], CommittedReader] = CommittedReader
    stall_timeout_seconds: float = STALL_TIMEOUT_SECONDS

    def last(self, shard: int, below: int | None = None) -> StoredProgress | None:
        """The shard's last progress record; None if there is none.

        Reads the last 1,000 offsets, then the last 10,000, and so on until it finds a record: it is usually near the
        end. Each time it reads up to the high watermark: the last stable offset may be before the record that matters.

        Args:
            shard: the shard's number.
            below: only records with a smaller sequence count, as far as compaction has left them.

        Raises:
            UnavailableError: the broker does not answer, another producer's open transaction blocks the partition, or
                the record cannot be read.
            StoppedError
        """
        wanted = destination(self.topic, self.outbox_id, shard)
        low, end = offset_ranges(self.admin, [TopicPartition(self.topic, shard)], OffsetSpec.earliest())[shard]
        with self.open_reader(self.config) as reader:
            for window in _windows_backwards(low, end):
                found = None
                for message in self._records(reader, shard, window):
                    if message.key() == wanted.key and (below is None or _decoded(message).sequence < below):
                        found = message
                if found is not None:
                    progress = _decoded(found)
                    ref = ref_of(progress.sequence, found.offset() or 0, found.value() or b"")
                    return StoredProgress(progress, ref)
        return None

    def _records(self, reader: CommittedReader, shard: int, window: OffsetRange) -> Iterator[Message]:
        for page in reader.read(self.topic, {shard: window}, 1, self.stall_timeout_seconds):
            yield from page
            if self.stopping():
                raise StoppedError("stopped while reading the progress topic")


def _windows_backwards(low: int, end: int) -> Iterator[OffsetRange]:
    """Windows of growing size, each of which reaches to the end."""
    size, start = _FIRST_WINDOW_OFFSETS, end
    while start > low:
        start = max(low, end - size)
        yield OffsetRange(start, end)
        size *= _WINDOW_GROWTH


def _decoded(message: Message) -> Progress:
    try:
        return decode(message.value() or b"")
    except ValueError as error:
        place = f"partition {message.partition()} of {message.topic()} at offset {message.offset()}"
        raise UnavailableError(f"{error} ({place})") from None
