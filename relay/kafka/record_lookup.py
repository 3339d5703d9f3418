"""Finds the Kafka record of a row, and compares the two.

The record is found by its header ``outbox-id`` and its key. Every partition is searched, because the topic may have
had fewer when the row was sent. The search goes backwards from the time at which the row was marked sent, in growing
windows, and at last through the newest records of each partition whatever their time. It ends after a time limit.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from time import monotonic
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from fastavro import schemaless_reader
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException

from outbox.models import PendingRow
from outbox.operators.row_history import PersonalValues, StoredRow
from relay.errors import UnavailableError
from relay.kafka.avro import SCHEMA, parse_plain_schema, split_wire_format
from relay.kafka.client import OffsetRange, admin_client, at_time, offsets, partitions_of, topic_metadata
from relay.kafka.consumer import CommittedReader
from relay.kafka.encoder import Encoder
from relay.kafka.errors import CREATE_TOPIC, LastError
from relay.kafka.record import OUTBOX_ID, headers_of
from relay.kafka.schema_registry import RefusedError

SEARCH_TIMEOUT_SECONDS = 20.0
PAGE_RECORDS = 1_000
CLOCK_SKEW_MS = 60_000
"""Records carry the relay's time, rows the database's."""
WINDOWS_MS = (5_000, 60_000, 600_000)
"""How long before the mark each window begins; the last one begins when the row was received."""
NEWEST_RECORDS = 100
"""Of each partition: the relay's clock may be quite wrong, and the demo's mock cluster finds no record by its time."""


class FoundRecord(NamedTuple):
    """A record in the topic, as ``read_committed`` consumers see it."""

    partition: int
    offset: int
    timestamp_ms: int
    """When the relay created it, or the broker appended it, depending on the topic."""
    key: bytes
    value: bytes
    headers: dict[str, str]


class LookupResult(NamedTuple):
    """The outcome of a complete search."""

    found: FoundRecord | None
    records: int
    """Number of records that were read."""


def find_record(config: dict[str, Any], topic: str, row: StoredRow) -> LookupResult:
    """Find the row's record in the topic.

    Raises:
        MisconfiguredError: the client refuses its settings.
        UnavailableError: the topic cannot be read, or not completely within the time limit.
    """
    last_error = LastError()
    admin = admin_client(config, last_error)
    partitions = partitions_of(topic_metadata(admin, topic, last_error), topic)
    if not partitions:
        raise UnavailableError(f"topic {topic} does not exist: {CREATE_TOPIC}")
    records, deadline = 0, monotonic() + SEARCH_TIMEOUT_SECONDS
    with CommittedReader(config) as reader:
        for ranges in _windows(admin, partitions, row):
            for page in reader.read(topic, ranges, PAGE_RECORDS, SEARCH_TIMEOUT_SECONDS):
                for message in page:
                    records += 1
                    if _is_of(message, row):
                        return LookupResult(_found(message), records)
                if monotonic() > deadline:
                    raise UnavailableError(
                        f"not found among {records} records in {SEARCH_TIMEOUT_SECONDS:.0f} s, and there are more: "
                        f"search {topic} for a record with the header {OUTBOX_ID}: {row.id}"
                    )
    return LookupResult(None, records)


def window_bounds(row: StoredRow) -> list[int]:
    """Times between the windows, latest first, in milliseconds. The first window ends at the first one.

    The search of a row that is not marked sent is one window, from its receipt to the end of the topic.
    """
    received = row.received_at_ms - CLOCK_SKEW_MS
    if row.sent_at_ms is None:
        return [received]
    bounds = [row.sent_at_ms + CLOCK_SKEW_MS, *(row.sent_at_ms - window for window in WINDOWS_MS)]
    return [*(bound for bound in bounds if bound > received), received]


def _windows(admin: AdminClient, partitions: list[TopicPartition], row: StoredRow) -> Iterator[dict[int, OffsetRange]]:
    """The offsets of each window, latest first; then those of the newest records."""
    ends = newest = offsets(admin, partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)

    def at(time_ms: int) -> dict[int, int]:
        found = offsets(admin, partitions, at_time(time_ms), IsolationLevel.READ_COMMITTED)
        return {number: min(at, ends[number]) if at >= 0 else ends[number] for number, at in found.items()}

    bounds = window_bounds(row)
    if row.sent_at_ms is not None:  # records written well after the mark are not read
        ends = at(bounds.pop(0))
    for bound in bounds:
        starts = at(bound)
        yield {number: OffsetRange(start, ends[number]) for number, start in starts.items()}
        ends = starts
    firsts = offsets(admin, partitions, OffsetSpec.earliest(), IsolationLevel.READ_COMMITTED)
    yield {number: OffsetRange(max(firsts[number], end - NEWEST_RECORDS), end) for number, end in newest.items()}


def _is_of(message: Message, row: StoredRow) -> bool:
    return message.key() == row.interaction_id.encode() and headers_of(message).get(OUTBOX_ID) == b"%d" % row.id


def _found(message: Message) -> FoundRecord:
    return FoundRecord(
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key() or b"",
        message.value() or b"",
        {name: value.decode(errors="replace") for name, value in headers_of(message).items()},
    )


# Comparing -----------------------------------------------------------------------------------------


def compare_record(
    schema: Callable[[int], str], row: StoredRow, personal: PersonalValues, record: FoundRecord
) -> dict[str, tuple[Any, Any]]:
    """Compare a row with its record: name to the row's value and the record's value, for each that differs.

    Args:
        schema: returns a schema of the registry by its id.
        row: the row.
        personal: its personal values.
        record: its record.

    Raises:
        UnavailableError: the registry does not return the record's schema.
    """
    columns = {**row._asdict(), **personal._asdict()}
    pending = PendingRow(nonce=0, **{name: columns[name] for name in PendingRow._fields if name != "nonce"})
    ((_, value, headers, _),) = Encoder(0, {row.topic: 0} if row.topic else {}).records([pending])
    expected = {
        **_fields(split_wire_format(value)[1], SCHEMA),
        **{f"header {name}": bytes(content or b"").decode() for name, content in headers},  # type: ignore[arg-type]
    }
    schema_id, avro = split_wire_format(record.value)
    actual = {
        **_fields(avro, _writer_schema(schema, schema_id)),
        **{f"header {name}": content for name, content in record.headers.items()},
    }
    pairs = {name: (expected.get(name), actual.get(name)) for name in {**expected, **actual}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _fields(avro: bytes, writer_schema: Any) -> dict[str, Any]:
    try:
        found = schemaless_reader(BytesIO(avro), writer_schema, SCHEMA)
    except (ValueError, TypeError, EOFError, KeyError, IndexError, SchemaResolutionError) as error:
        return {"value": f"cannot be decoded ({type(error).__name__})"}
    return found if isinstance(found, dict) else {"value": "not an Avro record"}


def _writer_schema(schema: Callable[[int], str], schema_id: int) -> Any:
    try:
        return parse_plain_schema(schema(schema_id))
    except (RefusedError, ValueError, KeyError, TypeError, SchemaParseException) as error:
        raise UnavailableError(f"the Schema Registry does not return schema {schema_id} ({error})") from None
