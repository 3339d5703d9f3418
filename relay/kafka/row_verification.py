"""Find a row's record in Kafka, and decide whether the topic agrees with the outbox."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from config.settings import SettingsError, load
from outbox.errors import OutboxMismatchError
from outbox.models import Identity
from outbox.operators.format import format_time
from outbox.operators.row_facts import Fact
from outbox.operators.row_history import PersonalValues, StoredRow
from outbox.states import RowState
from relay.errors import MisconfiguredError, UnavailableError
from relay.identity import ensure_same_identity
from relay.kafka import record_lookup
from relay.kafka.schema_registry import SchemaRegistry
from relay.kafka.shard_clients import transactional_id
from relay.kafka.topics import cluster_id_of
from relay.settings import RelaySettings, kafka_client_config


class KafkaRecord(NamedTuple):
    """What was found in Kafka for a row."""

    transactional_id: str | None = None
    record: dict[str, Any] | None = None
    """Partition, offset, time and headers; None: not found."""
    not_seen: str | None = None
    """Why there is no record."""
    looked_up: bool = False
    """Whether the search was completed."""
    differences: dict[str, tuple[Any, Any]] | None = None
    """By field, the values of the row and of the record; None: not compared."""
    not_compared: str | None = None
    """Why not."""


def look_up_record(
    environ: Mapping[str, str], row: StoredRow, identity: Identity, personal: PersonalValues | None
) -> KafkaRecord:
    """Find a row's record. A service that cannot be used is named in the result.

    Args:
        environ: the settings of the relay.
        row: the row.
        identity: what the outbox was used with: with other settings, a missing record means nothing.
        personal: the row's personal values, to compare the record with the row; None: it is not compared.
    """
    try:
        settings = load(RelaySettings, environ)
    except SettingsError as error:
        return KafkaRecord(not_seen=f"not looked up: {error}".replace("\n", "; "))
    producer_id = transactional_id(settings.kafka_transactional_id_prefix, row.shard)
    topic = row.topic or settings.kafka_topic
    try:
        ensure_same_identity(settings, identity)  # needs no broker, so it comes first
        ensure_same_identity(settings, identity, cluster_id_of(settings))
        found, records = record_lookup.find_record(kafka_client_config(settings), topic, row)
    except (UnavailableError, MisconfiguredError, OutboxMismatchError) as error:
        return KafkaRecord(producer_id, not_seen=f"not looked up: {error}")
    if found is None:
        read = f"{records} record{'' if records == 1 else 's'}"
        message = f"not in {topic}: searched {read}, all since it was received among them"
        return KafkaRecord(producer_id, not_seen=message, looked_up=True)
    fields = {"topic": topic, **found._asdict(), "value": f"{len(found.value)} bytes"}
    fields["key"] = found.key.decode(errors="replace")
    result = KafkaRecord(producer_id, fields, looked_up=True)
    if personal is None:
        return result
    try:
        differences = record_lookup.compare_record(SchemaRegistry(settings).schema, row, personal, found)
    except UnavailableError as error:
        return result._replace(not_compared=str(error))
    return result._replace(differences=differences)


def topic_agrees(row: StoredRow, kafka: KafkaRecord) -> bool | None:
    """Decide whether the topic holds the row, unchanged, if and only if it is marked sent; None: unknown."""
    if not kafka.looked_up or kafka.not_compared:
        return None
    is_sent = row.state == RowState.SENT
    return not kafka.differences and is_sent == (kafka.record is not None)


def record_facts(row: StoredRow, kafka: KafkaRecord, *, revealed: bool) -> Iterator[Fact]:
    """Yield what is known about a row's record in Kafka.

    Args:
        row: the row.
        kafka: what was found.
        revealed: whether values that differ may be shown.
    """
    if row.sequence is not None:
        name = f" ({kafka.transactional_id})" if kafka.transactional_id else ""
        yield "transaction", f"{row.sequence} of shard {row.shard}{name}"
    if kafka.record is None:
        yield "in Kafka", kafka.not_seen or ""
        return
    record = kafka.record
    headers = " ".join(f"{name}={value}" for name, value in record["headers"].items())
    yield "in Kafka", f"{record['topic']}, partition {record['partition']}, offset {record['offset']}"
    yield "record", f"{format_time(record['timestamp_ms'])}, {record['value']}, {headers}"
    if kafka.not_compared:
        yield "comparison", f"not compared: {kafka.not_compared}"
    elif kafka.differences is not None:
        names = ", ".join(sorted(kafka.differences))
        yield "comparison", f"DIFFERENT in {names}" if names else "the record matches the row"
        if revealed:
            for name, (ours, theirs) in sorted(kafka.differences.items()):
                yield "", f"{name}: the row has {ours!r}, the record {theirs!r}"
