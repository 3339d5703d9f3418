"""A row's record in the topic: found by the header ``outbox-id`` near the time that the row tells, and compared.

Every partition is looked at, for a topic may have had fewer when the row was sent. The search goes
backwards from the moment the row was marked, in growing windows, and is bounded in time.
"""

import json
from collections.abc import Sequence
from io import BytesIO
from time import monotonic
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from fastavro import parse_schema, schemaless_reader
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException

from outbox.models import PendingRow
from outbox.operators.row_history import StoredRow
from relay.errors import UnavailableError
from relay.kafka.encoder import MAGIC_BYTE, Encoder
from relay.kafka.errors import REQUEST_SECONDS, LastError, committed_reader, explain, of_partitions, translate_errors
from relay.kafka.schema_registry import SCHEMA_TEXT, RefusedError, Registry

SEARCH_SECONDS = 20.0
"""For the whole search."""
SKEW_MS = 60_000
"""Records carry the relay's time, rows the database's."""
WINDOWS_MS = (5_000, 60_000, 600_000)
"""How long before the mark a record may have been written; the last window begins when the row was received."""
WIRE_PREFIX_BYTES = 5
_SCHEMA = parse_schema(json.loads(SCHEMA_TEXT))


class FoundRecord(NamedTuple):
    """A record in the topic, as ``read_committed`` consumers see it."""

    partition: int
    offset: int
    timestamp_ms: int
    """When the relay wrote it, or the broker took it, as the topic has it."""
    key: bytes
    value: bytes
    headers: dict[str, str]


class LookupResult(NamedTuple):
    """How a search ended that was not cut short."""

    found: FoundRecord | None
    records: int
    """Looked at."""


def find(config: dict[str, Any], topic: str, row: StoredRow) -> LookupResult:
    """Look for the row's record.

    Raises:
        UnavailableError: the topic cannot be read, or there is more to read than the time allows.
    """
    memory = LastError()
    consumer = committed_reader(config, memory)
    try:
        with translate_errors("read the topic", memory, UnavailableError):
            return _search(consumer, topic, row)
    finally:
        consumer.close()


def window_bounds(row: StoredRow) -> list[int]:
    """Bounds of the windows, latest first, in milliseconds: before the first lies everything up to the topic's end."""
    first = row.received_at_ms - SKEW_MS
    if row.sent_at_ms is None:
        return [first]
    bounds = [row.sent_at_ms + SKEW_MS, *(row.sent_at_ms - window for window in WINDOWS_MS)]
    return [*(bound for bound in bounds if bound > first), first]


def _search(consumer: Consumer, topic: str, row: StoredRow) -> LookupResult:
    deadline = monotonic() + SEARCH_SECONDS
    found = consumer.list_topics(topic, REQUEST_SECONDS).topics[topic]
    if found.error is not None:
        raise UnavailableError(_told(topic, found.error))
    partitions = sorted(found.partitions)
    ends = {}
    for number in partitions:
        ends[number] = consumer.get_watermark_offsets(TopicPartition(topic, number), REQUEST_SECONDS)[1]
    bounds = window_bounds(row)
    if row.sent_at_ms is not None:  # what was written well after the mark is not looked at
        ends = _offsets(consumer, topic, bounds.pop(0), ends)
    records = 0
    for bound in bounds:
        starts = _offsets(consumer, topic, bound, ends)
        found, looked = _window(consumer, topic, row, (starts, ends), deadline)
        records += looked
        if found is not None:
            return LookupResult(found, records)
        ends = starts
    return LookupResult(None, records)


def _offsets(consumer: Consumer, topic: str, at_ms: int, ends: dict[int, int]) -> dict[int, int]:
    """Offset of the first record of each partition at that time or later, at most its end."""
    wanted = [TopicPartition(topic, number, max(0, at_ms)) for number in ends]
    found = consumer.offsets_for_times(wanted, REQUEST_SECONDS)
    for place in found:
        if place.error is not None:
            raise UnavailableError(_told(topic, place.error))
    return {p.partition: min(p.offset, ends[p.partition]) if p.offset >= 0 else ends[p.partition] for p in found}


def _window(
    consumer: Consumer,
    topic: str,
    row: StoredRow,
    bounds: tuple[dict[int, int], dict[int, int]],
    deadline: float,
) -> tuple[FoundRecord | None, int]:
    """The record between the offsets, if it is there, and how many were looked at."""
    starts, ends = bounds
    open_partitions = {number for number, start in starts.items() if start < ends[number]}
    if not open_partitions:
        return None, 0
    consumer.assign([TopicPartition(topic, number, starts[number]) for number in sorted(open_partitions)])
    wanted, looked = b"%d" % row.id, 0
    while open_partitions:
        if monotonic() > deadline:
            raise UnavailableError(
                f"not found among {looked} records in {SEARCH_SECONDS:.0f} s, and there are more: "
                f"look in {topic} for the header outbox-id {row.id}"
            )
        for message in of_partitions(consumer.consume(1000, 0.2)):
            number, position = message.partition() or 0, message.offset() or 0
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                raise UnavailableError(_told(topic, error))
            if error is not None or position >= ends[number] - 1:
                _leave(consumer, topic, number, open_partitions)
            if error is not None or position >= ends[number]:
                continue
            looked += 1
            if _header(message, "outbox-id") == wanted and message.key() == row.interaction_id.encode():
                return _sighting(message), looked
    return None, looked


def _leave(consumer: Consumer, topic: str, number: int, open_partitions: set[int]) -> None:
    """This partition is read to the window's end: fetch no more of it."""
    if number in open_partitions:
        open_partitions.discard(number)
        consumer.incremental_unassign([TopicPartition(topic, number)])


def _header(message: Message, wanted: str) -> bytes | None:
    headers: Sequence[tuple[str, bytes | None]] = message.headers() or ()  # type: ignore[assignment]
    return next((value for name, value in headers if name == wanted), None)


def _sighting(message: Message) -> FoundRecord:
    headers: Sequence[tuple[str, bytes | None]] = message.headers() or ()  # type: ignore[assignment]
    return FoundRecord(
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key() or b"",
        message.value() or b"",
        {name: (value or b"").decode(errors="replace") for name, value in headers},
    )


def _told(topic: str, error: KafkaError) -> str:
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return f"the topic may not be read: grant Read and Describe on {topic} (the relay itself does without Read)"
    return f"topic {topic}: {explain(error)}"


# Comparing -----------------------------------------------------------------------------------------


def differences(registry: Registry, row: StoredRow, seen: FoundRecord) -> dict[str, tuple[Any, Any]]:
    """What the topic does not hold as the row has it: name to what the row says and what the record says.

    Raises:
        UnavailableError: the registry does not give the record's schema.
    """
    given = row._asdict()
    pending = PendingRow(nonce=0, **{name: given[name] for name in PendingRow._fields if name != "nonce"})
    ((_, value, headers, _),) = Encoder(0, {row.topic: 0} if row.topic else {}).records([pending])
    row_says = {
        **_decoded(value, _SCHEMA),
        **{f"header {name}": bytes(told or b"").decode() for name, told in headers},  # type: ignore[arg-type]
    }
    topic_says = {
        **_decoded(seen.value, _writer_schema(registry, seen.value)),
        **{f"header {name}": value for name, value in seen.headers.items()},
    }
    both = {name: (row_says.get(name), topic_says.get(name)) for name in {**row_says, **topic_says}}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _decoded(value: bytes, writer: Any) -> dict[str, Any]:
    try:
        found = schemaless_reader(BytesIO(value[WIRE_PREFIX_BYTES:]), writer, _SCHEMA)
    except (ValueError, TypeError, EOFError, KeyError, IndexError, SchemaResolutionError) as error:
        return {"value": f"cannot be decoded ({type(error).__name__})"}
    return found if isinstance(found, dict) else {"value": "is no Avro record"}


def _writer_schema(registry: Registry, value: bytes) -> Any:
    schema_id = int.from_bytes(value[len(MAGIC_BYTE) : WIRE_PREFIX_BYTES], "big")
    try:
        return parse_schema(json.loads(registry.schema(schema_id)))
    except (RefusedError, ValueError, SchemaParseException) as error:
        raise UnavailableError(f"the Schema Registry does not give schema {schema_id} ({error})") from None
