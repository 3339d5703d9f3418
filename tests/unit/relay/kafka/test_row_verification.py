"""Whether a row and the topic agree."""

import pytest

from outbox.operators.row_history import StoredRow
from outbox.states import RowState
from relay.kafka.row_verification import KafkaRecord, topic_agrees

FOUND = KafkaRecord(record={"partition": 0}, looked_up=True, differences={})
MISSING = KafkaRecord(not_seen="not in interactions", looked_up=True)


def row(state: RowState) -> StoredRow:
    """Return a row in this state."""
    return StoredRow(1, 0, state, "i-1", "voice", 1, None, None, None, None, None, 1, None, None, None, None, 2)


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
