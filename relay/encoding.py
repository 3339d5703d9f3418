"""Rows to Kafka records: Avro in the Confluent wire format, under a schema id from the registry.

The one record is written by hand, field after field as in ``schemas/interaction.avsc``: a third of the
time that a general writer takes, at the place where the relay spends most. A test compares both.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from outbox.rows import PendingRow, Ref
from relay.errors import MisconfiguredError, RowsAtFaultError, UnavailableError
from relay.publisher import Headers, Record
from relay.settings import RelaySettings

SCHEMA_TEXT = files("relay").joinpath("schemas/interaction.avsc").read_text()
MAGIC_BYTE = b"\x00"
REGISTRY_TIMEOUT_SECONDS = 10
NOT_ALLOWED = frozenset({401, 403, 405})
NOT_FOUND = 404
CONFLICT = 409
TOO_MANY = 429
READ_ONLY_MODE = 42205


class Encoder:
    """Encodes rows under the schema that is registered for their topic.

    Args:
        schema_id: of the usual topic's subject, as the registry gave it, 32 bit.
        replay_topics: the other topics that rows may go to, and the schema id of each.
    """

    def __init__(self, schema_id: int, replay_topics: Mapping[str, int] | None = None) -> None:
        ids = [(None, schema_id), *(replay_topics or {}).items()]
        self._prefixes = {topic: MAGIC_BYTE + number.to_bytes(4, "big") for topic, number in ids}

    def records(self, rows: Sequence[PendingRow]) -> list[Record]:
        """A record for each row, in order.

        Raises:
            RowsAtFaultError: names every row that cannot be encoded.
        """
        records, errors, record = [], {}, self._record
        for row in rows:
            if row.topic not in self._prefixes:
                errors[row.ref] = f"topic {row.topic} is not in KAFKA_REPLAY_TOPICS: add it, restart the relay, retry"
                continue
            try:
                records.append(record(row))
            except (ValueError, TypeError, OverflowError, AttributeError) as error:
                # The library's message holds the row's values: only its kind is told.
                errors[Ref(row.id, row.tag)] = f"cannot be encoded as CXoneInteraction ({type(error).__name__})"
        if errors:
            raise RowsAtFaultError(errors)
        return records

    def _record(self, row: PendingRow) -> Record:
        (
            row_id,
            _,
            interaction_id,
            channel,
            timestamp_ms,
            email,
            agent_id,
            traceparent,
            replay_of,
            received_at_ms,
            _,
            topic,
        ) = row
        key = interaction_id.encode()
        value = b"".join(
            (
                self._prefixes[topic],
                avro_bytes(key),
                avro_bytes(channel.encode()),
                avro_long(timestamp_ms),
                NULL if email is None else NOT_NULL + avro_bytes(email.encode()),
                NULL if agent_id is None else NOT_NULL + avro_bytes(agent_id.encode()),
            )
        )
        headers: Headers = [("outbox-id", b"%d" % row_id), ("received-at", b"%d" % received_at_ms)]
        if traceparent is not None:
            headers.append(("traceparent", traceparent.encode()))
        if replay_of is not None:
            headers.append(("replay-of", b"%d" % replay_of))
        return key, value, headers, topic


def avro_long(number: int) -> bytes:
    """An integer of 64 bits as Avro writes it: zigzag, then seven bits a byte, the lowest first."""
    left = (number << 1) ^ (number >> 63)
    written = bytearray()
    while left > 0x7F:
        written.append(left & 0x7F | 0x80)
        left >>= 7
    written.append(left)
    return bytes(written)


_LENGTHS = [avro_long(length) for length in range(2048)]
NULL, NOT_NULL = avro_long(0), avro_long(1)
"""Which branch of ``["null", "string"]`` follows."""


def avro_bytes(content: bytes) -> bytes:
    """A string's bytes as Avro writes them, after their length."""
    length = len(content)
    return (_LENGTHS[length] if length < len(_LENGTHS) else avro_long(length)) + content


def make_encoder(settings: RelaySettings) -> Encoder:
    """An encoder for every topic that rows may go to. Raises as ``schema_id``."""
    replay_topics = {topic: schema_id(settings, topic) for topic in settings.kafka_replay_topics}
    return Encoder(schema_id(settings, settings.kafka_topic), replay_topics)


def schema_id(settings: RelaySettings, topic: str) -> int:
    """The id of a topic's value schema: registered if we may, else looked up.

    Raises:
        UnavailableError: the registry does not answer, or refuses the login.
        MisconfiguredError: it refuses the schema, or has none and does not let us register it.
    """
    subject = f"{topic}-value"
    schema = Schema(SCHEMA_TEXT, "AVRO")
    client = registry_client(settings)
    try:
        return int(client.register_schema(subject, schema))
    except SchemaRegistryError as error:
        if error.http_status_code not in NOT_ALLOWED and error.error_code != READ_ONLY_MODE:
            raise _refused(error, subject) from None
    except Exception as error:  # noqa: BLE001 - the client passes on whatever its HTTP library raises
        raise _unreachable(settings, error) from None
    try:
        return int(client.lookup_schema(subject, schema).schema_id or 0)
    except SchemaRegistryError as error:
        raise _refused(error, subject) from None
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreachable(settings, error) from None


def registry_client(settings: RelaySettings) -> SchemaRegistryClient:
    """A client that tries once; who waits, waits in the open."""
    config: dict[str, object] = {
        "url": settings.schema_registry_url,
        "timeout": REGISTRY_TIMEOUT_SECONDS,
        "max.retries": 0,  # the relay waits with a backoff of its own, and says so
    }
    if settings.schema_registry_username is not None:
        password = settings.schema_registry_password
        secret = password.get_secret_value() if password else ""
        config["basic.auth.user.info"] = f"{settings.schema_registry_username}:{secret}"
    return SchemaRegistryClient(config)


def _refused(error: SchemaRegistryError, subject: str) -> UnavailableError | MisconfiguredError:
    status = error.http_status_code
    if status in NOT_ALLOWED:
        return UnavailableError(
            f"the Schema Registry refuses the login or its rights ({status}): check SCHEMA_REGISTRY_USERNAME and "
            f"SCHEMA_REGISTRY_PASSWORD, and the right to read subject {subject}"
        )
    if status == NOT_FOUND:
        return MisconfiguredError(
            f"the Schema Registry has no schema under {subject} and the relay may not register one: "
            "register relay/schemas/interaction.avsc there"
        )
    if status == CONFLICT or 400 <= status < TOO_MANY:
        return MisconfiguredError(
            f"the Schema Registry refuses the schema of {subject} ({status}, {error.error_code}): "
            "its versions there are not compatible with relay/schemas/interaction.avsc"
        )
    if status == TOO_MANY:
        return UnavailableError(
            "the Schema Registry answers 429, too many requests: the relay waits and asks again, nothing is lost "
            "meanwhile; if it lasts, raise the registry's rate limit"
        )
    return UnavailableError(f"the Schema Registry answers {status}: it has to recover, nothing is lost meanwhile")


def _unreachable(settings: RelaySettings, error: Exception) -> UnavailableError:
    place = settings.schema_registry_url.rsplit("@", 1)[-1]
    return UnavailableError(f"the Schema Registry at {place} does not answer ({type(error).__name__})")
