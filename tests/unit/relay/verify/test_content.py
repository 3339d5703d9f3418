"""Comparing contents by their hashes, whatever schema a record was written with."""

import json
from io import BytesIO

from fastavro import parse_schema, schemaless_writer

from outbox.models import PendingRow
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
    assert ContentHasher(lambda _number: "no schema").of_record(value(), REPLAY) == NO_CONTENT


def test_a_row_that_cannot_be_sent_has_no_content() -> None:
    """It has no record either, so nothing is compared with it."""
    unsendable = ROW._replace(interaction_id="\ud800")
    assert ContentHasher(lambda _number: SCHEMA_TEXT).of_row(unsendable) == NO_CONTENT
