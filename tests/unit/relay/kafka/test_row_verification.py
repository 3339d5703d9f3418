"""Whether a row and the topic agree, and what is said about its record."""

import pytest

from outbox.operators.format import format_time
from outbox.operators.row_history import StoredRow
from outbox.states import RowState
from relay.kafka.row_verification import KafkaRecord, record_facts, topic_agrees

FOUND = KafkaRecord(record={"partition": 0}, looked_up=True, differences={})
MISSING = KafkaRecord(not_seen="not in interactions", looked_up=True)


def row(state: RowState) -> StoredRow:
    """Return a row in this state."""
    return StoredRow(1, 0, state, "i-1", "voice", 1, None, None, None, 1, None, None, None, None, False, False, 2)


@pytest.mark.parametrize(
    ("state", "kafka", "agrees"),
    [
        (RowState.SENT, FOUND, True),
        (RowState.SENT, MISSING, False),
        (RowState.PENDING, FOUND, False),
        (RowState.PENDING, MISSING, True),
        (RowState.SENT, FOUND._replace(differences={"channel": ("voice", "mail")}), False),
        (RowState.SENT, KafkaRecord(not_seen="not looked up: no broker"), None),
        (RowState.SENT, FOUND._replace(differences=None, not_compared="no registry"), None),
    ],
)
def test_the_topic_agrees_if_it_holds_exactly_the_sent_rows(
    state: RowState, kafka: KafkaRecord, *, agrees: bool | None
) -> None:
    """It does not if the record differs; it is unknown if the search or the comparison failed."""
    assert topic_agrees(row(state), kafka) is agrees


RECORD = {
    "topic": "t",
    "partition": 1,
    "offset": 2,
    "timestamp_ms": 1_000,
    "value": "20 bytes",
    "headers": {"replay-of": "3"},
}


def test_a_record_is_described_by_its_place_and_its_comparison() -> None:
    """A transaction is named if the row has one; values that differ are shown only if they may be."""
    sent = row(RowState.SENT)._replace(sequence=5)
    kafka = KafkaRecord("relay-0", RECORD, looked_up=True, differences={})
    place = [
        ("transaction", "5 of shard 0 (relay-0)"),
        ("in Kafka", "t, partition 1, offset 2"),
        ("record", f"{format_time(1_000)}, 20 bytes, replay-of=3"),
    ]
    assert list(record_facts(sent, kafka, revealed=False)) == [*place, ("comparison", "the record matches the row")]
    different = kafka._replace(differences={"channel": ("voice", "mail")})
    assert list(record_facts(sent, different, revealed=False)) == [*place, ("comparison", "DIFFERENT in channel")]
    revealed = list(record_facts(sent, different, revealed=True))
    assert revealed[-1] == ("", "channel: the row has 'voice', the record 'mail'")
    failed = kafka._replace(differences=None, not_compared="no registry")
    assert list(record_facts(sent, failed, revealed=False))[-1] == ("comparison", "not compared: no registry")
    assert list(record_facts(row(RowState.PENDING), MISSING, revealed=False)) == [("in Kafka", "not in interactions")]
