"""Records as consumers decode them."""

import json
from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from outbox.models import PendingRow, RowRef
from relay.errors import RowsAtFaultError
from relay.kafka.avro import SCHEMA, SCHEMA_TEXT
from relay.kafka.encoder import Encoder

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(alphabet="aé€😀", max_size=2500)
_long = st.integers(-(2**63), 2**63 - 1)
_rows = st.builds(
    PendingRow, _long, _long, _text, _text, _long, st.none() | _text, st.none() | _text, st.none() | _text,
    st.none() | _long, _long, st.none(), st.none(),
)  # fmt: skip


@given(_rows)
def test_a_value_equals_what_an_avro_library_encodes(row: PendingRow) -> None:
    """Byte for byte, for every string and every 64-bit number; decoded, it has the values of the row."""
    fields = {
        "interactionId": row.interaction_id,
        "channel": row.channel,
        "timestamp": row.timestamp_ms,
        "customerEmail": row.customer_email,
        "agentId": row.agent_id,
    }
    expected = BytesIO()
    schemaless_writer(expected, SCHEMA, fields)
    ((key, value, headers, topic),) = Encoder(258).records([row])
    assert value == b"\0\0\0\1\2" + expected.getvalue()
    assert schemaless_reader(BytesIO(value[5:]), SCHEMA, None) == fields
    assert key == row.interaction_id.encode()
    assert topic is None
    assert [name for name, _ in headers] == [
        "outbox-id",
        "received-at",
        *(["traceparent"] if row.traceparent is not None else []),
        *(["replay-of"] if row.replay_of is not None else []),
    ]


def test_fields_are_encoded_in_the_order_of_the_schema() -> None:
    """A change of the schema's fields needs a change of the encoder."""
    names = [field["name"] for field in json.loads(SCHEMA_TEXT)["fields"]]
    assert names == ["interactionId", "channel", "timestamp", "customerEmail", "agentId"]


@pytest.mark.parametrize("wrong", [{"interaction_id": "\ud800"}, {"agent_id": 7}, {"timestamp_ms": "1"}])
def test_rows_that_cannot_be_encoded_are_named_together(wrong: dict[str, Any]) -> None:
    """Each is named by id and nonce, without its values. SQLite stores values of any type."""
    good = PendingRow(1, 11, "i", "voice", 0, None, None, None, None, 0)
    bad = good._replace(id=2, nonce=22, **wrong)
    with pytest.raises(RowsAtFaultError) as caught:
        Encoder(1).records([good, bad, good])
    assert list(caught.value.errors) == [RowRef(2, 22)]
