"""Whether a record has the content of its row, decided by comparing hashes of both."""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, to_parsing_canonical_form

from outbox.models import PendingRow
from relay.errors import RowsAtFaultError, UnavailableError
from relay.kafka.avro import MAGIC_BYTE, PREFIX_BYTES, SCHEMA, parse_plain_schema, split_wire_format
from relay.kafka.encoder import Encoder
from relay.kafka.record import REPLAY_OF
from relay.kafka.schema_registry import Refusal, RefusedError
from relay.verify.row_table import HASH_BITS

NO_CONTENT = -1
"""Hash of a record that cannot be decoded; no row has it."""
MAX_SCHEMA_ID = 2**31 - 1
LACKING = frozenset({Refusal.NOT_FOUND, Refusal.SCHEMA})
"""Refusals that tell that the registry has no schema with an id."""
_CANONICAL = to_parsing_canonical_form(SCHEMA)


class ContentHasher:
    """Hashes what a row and its record contain: the five fields, and which row it is a replay of.

    Args:
        schema: returns a schema of the registry by its id.
    """

    def __init__(self, schema: Callable[[int], str]) -> None:
        self._schema = schema
        self._encoder = Encoder(0)
        self._writer_schemas: dict[bytes, Any] = {}

    def of_row(self, row: PendingRow) -> int:
        """Hash what the relay sends of a row; ``NO_CONTENT``: it cannot be sent."""
        try:
            ((_, value, _, _),) = self._encoder.records([row])
        except RowsAtFaultError:
            return NO_CONTENT
        return hash((value[PREFIX_BYTES:], None if row.replay_of is None else b"%d" % row.replay_of)) & HASH_BITS

    def of_record(self, value: bytes, headers: Mapping[str, bytes]) -> int:
        """Hash a record in the same way.

        Raises:
            UnavailableError: the registry does not answer, or refuses to.
        """
        prefix = value[:PREFIX_BYTES]
        if prefix not in self._writer_schemas:
            self._writer_schemas[prefix] = self._look_up(prefix)
        writer_schema = self._writer_schemas[prefix]
        if writer_schema is SCHEMA:
            return hash((value[PREFIX_BYTES:], headers.get(REPLAY_OF))) & HASH_BITS
        if writer_schema is None:
            return NO_CONTENT
        return self._of_other_schema(value[PREFIX_BYTES:], headers, writer_schema)

    def _look_up(self, prefix: bytes) -> Any:
        """Return the schema of a record: ``SCHEMA`` itself if it is the same, None if there is none."""
        number, _ = split_wire_format(prefix)
        if len(prefix) < PREFIX_BYTES or not prefix.startswith(MAGIC_BYTE) or number > MAX_SCHEMA_ID:
            return None
        try:
            schema = parse_plain_schema(self._schema(number))
        except RefusedError as error:
            if error.refusal in LACKING:
                return None
            raise UnavailableError(f"the Schema Registry does not return schema {number} ({error})") from None
        except (ValueError, KeyError, TypeError, SchemaParseException):
            return None
        return SCHEMA if to_parsing_canonical_form(schema) == _CANONICAL else schema

    def _of_other_schema(self, avro: bytes, headers: Mapping[str, bytes], writer_schema: Any) -> int:
        """Encode the record again, as the relay would today."""
        try:
            fields: Any = schemaless_reader(BytesIO(avro), writer_schema, SCHEMA)
            replay_of = int(headers[REPLAY_OF]) if REPLAY_OF in headers else None
            values = [fields[name] for name in _FIELDS]
            row = PendingRow._make([0, 0, *values, None, replay_of, 0, None, None])
        except (ValueError, TypeError, EOFError, KeyError, IndexError, SchemaResolutionError):
            return NO_CONTENT
        return self.of_row(row)


_FIELDS = ("interactionId", "channel", "timestamp", "customerEmail", "agentId")
"""In the order of ``PendingRow``."""
