"""Comparing a row with its record, whatever schema the record was written with."""

import json

from outbox.models import PendingRow
from outbox.operators.row_history import PersonalValues, StoredRow
from relay.kafka.avro import SCHEMA_TEXT, wire_prefix
from relay.kafka.encoder import Encoder
from relay.kafka.record_lookup import FoundRecord, compare_record

ROW = StoredRow(
    7, 0, "sent", "i-1", "voice", 1_700_000_000_000, None, None, None, 1, 2, 1, None, None,
    has_customer=False, has_agent=True, payload_bytes=10,
)  # fmt: skip
PERSONAL = PersonalValues(None, "agent-7")


def test_a_later_schema_with_a_logical_type_is_read_as_it_is_written() -> None:
    """The time is then still the same number, and what the schema has more is not compared."""
    schema = json.loads(SCHEMA_TEXT)
    schema["fields"].append({"name": "skill", "type": "string", "default": ""})
    (timestamp,) = (field for field in schema["fields"] if field["name"] == "timestamp")
    timestamp["type"] = {"type": "long", "logicalType": "timestamp-millis"}
    pending = PendingRow(7, 0, "i-1", "voice", ROW.timestamp_ms, None, "agent-7", None, None, 1)
    ((key, value, headers, _),) = Encoder(1).records([pending])
    named = {name: bytes(content or b"").decode() for name, content in headers}  # type: ignore[arg-type]
    record = FoundRecord(0, 0, 1, key, wire_prefix(9) + value[5:] + b"\x02x", named)
    assert compare_record(lambda _number: json.dumps(schema), ROW, PERSONAL, record) == {}
    other = PERSONAL._replace(agent_id="agent-8")
    differences = compare_record(lambda _number: json.dumps(schema), ROW, other, record)
    assert differences == {"agentId": ("agent-8", "agent-7")}
