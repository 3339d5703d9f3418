"""Avro as the encoder writes it, and the wire format that puts a schema id before it.

Source: https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

import json
from importlib.resources import files
from typing import Any

from fastavro import parse_schema
from fastavro.schema import to_parsing_canonical_form

SCHEMA_TEXT = files("relay.kafka").joinpath("schemas/interaction.avsc").read_text()
SCHEMA = parse_schema(json.loads(SCHEMA_TEXT))
MAGIC_BYTE = b"\x00"
PREFIX_BYTES = 5


def wire_prefix(schema_id: int) -> bytes:
    """What precedes a value in Confluent's wire format: a zero byte and the schema id, 32 bits."""
    return MAGIC_BYTE + schema_id.to_bytes(4, "big")


def split_wire_format(value: bytes) -> tuple[int, bytes]:
    """The schema id and the Avro value of a record in Confluent's wire format."""
    return int.from_bytes(value[len(MAGIC_BYTE) : PREFIX_BYTES], "big"), value[PREFIX_BYTES:]


def parse_plain_schema(text: str) -> Any:
    """Parse a schema without its logical types, so that fields are decoded to what the encoder takes.

    Args:
        text: JSON.

    Raises:
        ValueError, KeyError, TypeError, SchemaParseException: it is no schema.
    """
    return parse_schema(json.loads(to_parsing_canonical_form(parse_schema(json.loads(text)))))


def encode_long(number: int) -> bytes:
    """Encode a 64-bit integer: zigzag, then seven bits in each byte, the lowest first."""
    left = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while left > 0x7F:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)


NULL, NOT_NULL = encode_long(0), encode_long(1)
"""Branches of the union ``["null", "string"]``."""
_LENGTHS = [encode_long(length) for length in range(2048)]


def encode_bytes(content: bytes) -> bytes:
    """Encode a string, given as UTF-8: its length, then its bytes."""
    length = len(content)
    return (_LENGTHS[length] if length < len(_LENGTHS) else encode_long(length)) + content
