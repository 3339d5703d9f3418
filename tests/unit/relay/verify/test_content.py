"""Comparing contents by their hashes, whatever schema a record was written with."""

import json
from io import BytesIO

import pytest
from fastavro import parse_schema, schemaless_writer

from outbox.models import PendingRow
from relay.errors import UnavailableError
from relay.kafka.avro import SCHEMA_TEXT, wire_prefix
from relay.kafka.encoder import Encoder
from relay.kafka.schema_registry import RefusedError
from relay.verify.content import NO_CONTENT, ContentHasher

ROW = PendingRow(7, 0, "i-1", "voice", 1_700_000_000_000, None, "agent-7", None, 3, 1)
REPLAY = {"replay-of": b"3"}


def value() -> bytes:
    """Return the value that the relay sends of the row."""
    ((_, encoded, _, _),) = Encoder(1).records([ROW])
    return encoded


def test_the_row_and_its_record_have_the_same_hash() -> None:
    """Also under a schema id that is new, if the schema is the same but for its texts."""
    documented = json.dumps({**json.loads(SCHEMA_TEXT), "doc": "Another text."})
    hasher = ContentHasher(lambda number: SCHEMA_TEXT if number == 1 else documented)
    assert hasher.of_record(value(), REPLAY) == hasher.of_row(ROW)
    assert hasher.of_record(wire_prefix(2) + value()[5:], REPLAY) == hasher.of_row(ROW)
    assert hasher.of_record(value(), {}) != hasher.of_row(ROW)
    assert hasher.of_record(value()[:-1] + b"8", REPLAY) != hasher.of_row(ROW)


def test_a_record_of_another_schema_is_read_with_it() -> None:
    """A schema with its fields in another order, and one more, describes the same content."""
    schema = json.loads(SCHEMA_TEXT)
    schema["fields"] = [*reversed(schema["fields"]), {"name": "skill", "type": "string"}]
    fields = {
        "interactionId": "i-1",
        "channel": "voice",
        "timestamp": ROW.timestamp_ms,
        "customerEmail": None,
        "agentId": "agent-7",
        "skill": "billing",
    }
    avro = BytesIO()
    schemaless_writer(avro, parse_schema(schema), fields)
    hasher = ContentHasher(lambda _number: json.dumps(schema))
    assert hasher.of_record(wire_prefix(9) + avro.getvalue(), REPLAY) == hasher.of_row(ROW)
    assert hasher.of_record(wire_prefix(9) + avro.getvalue()[:-20], REPLAY) == NO_CONTENT


def test_a_schema_that_the_registry_lacks_is_no_content() -> None:
    """So a record that only pretends to be Avro is changed."""

    def refuse(_number: int) -> str:
        raise RefusedError(404, 40403)

    assert ContentHasher(refuse).of_record(value(), REPLAY) == NO_CONTENT
    texts = ["no schema", "null", "{}", '{"type": "array", "prefixItems": []}']  # the last ones are JSON Schemas
    hasher = ContentHasher(lambda number: texts[number])
    assert [hasher.of_record(wire_prefix(number), {}) for number in range(len(texts))] == [NO_CONTENT] * len(texts)


@pytest.mark.parametrize(("status", "code"), [(503, 0), (500, 50001), (401, 40101), (403, 0), (429, 0)])
def test_a_registry_that_refuses_says_nothing_about_a_record(status: int, code: int) -> None:
    """Otherwise every record would count as changed while the registry, or a proxy before it, is down."""

    def refuse(_number: int) -> str:
        raise RefusedError(status, code)

    with pytest.raises(UnavailableError, match="the Schema Registry does not return schema 1"):
        ContentHasher(refuse).of_record(value(), REPLAY)


@pytest.mark.parametrize("damaged", [b"\1\0\0\0\1" + value()[5:], b"\0\xff\xff\xff\xff" + value()[5:], b"\0\0\0\1"])
def test_what_precedes_the_value_has_to_be_that_of_a_schema(damaged: bytes) -> None:
    """A zero byte and 31 bits. The registry is not asked for anything else, which it would not answer as a registry."""
    numbers: list[int] = []

    def note(number: int) -> str:
        numbers.append(number)
        return SCHEMA_TEXT

    assert ContentHasher(note).of_record(damaged, REPLAY) == NO_CONTENT
    assert numbers == []


def test_a_later_schema_with_a_logical_type_is_read_as_it_is_written() -> None:
    """The time is then still the same number."""
    schema = json.loads(SCHEMA_TEXT)
    schema["fields"].append({"name": "skill", "type": "string", "default": ""})
    (timestamp,) = (field for field in schema["fields"] if field["name"] == "timestamp")
    timestamp["type"] = {"type": "long", "logicalType": "timestamp-millis"}
    avro = value()[5:] + b"\x02x"
    assert ContentHasher(lambda _number: json.dumps(schema)).of_record(wire_prefix(9) + avro, REPLAY) == ContentHasher(
        lambda _number: SCHEMA_TEXT
    ).of_row(ROW)


def test_a_row_that_cannot_be_sent_has_no_content() -> None:
    """It has no record either, so nothing is compared with it."""
    unsendable = ROW._replace(interaction_id="\ud800")
    assert ContentHasher(lambda _number: SCHEMA_TEXT).of_row(unsendable) == NO_CONTENT
