"""What the outbox knows about a row, as labels and texts."""

from dataclasses import replace

import pytest

from outbox.operators.audit import AuditEntry
from outbox.operators.format import format_time
from outbox.operators.row_facts import content_facts, later_facts, masked_values, receipt_facts, sending_facts
from outbox.operators.row_history import Replay, RowContent, RowHistory, StoredCall, StoredRow

ROW = StoredRow(7, 1, "pending", "i-1", "voice", 5, None, None, None, 1_000, None, None, None, None, True, False, 20)
HISTORY = RowHistory(ROW, None, 0, None, 0, [], [], [])


def test_content_is_shown_only_if_it_is_revealed() -> None:
    """Otherwise the size of the payload and the labels of what is masked."""
    content = RowContent("someone@example.com", None, b"{}", 1)
    assert dict(receipt_facts(ROW)) == {"interaction": "i-1, voice, timestamp 5", "received": format_time(1_000)}
    assert list(content_facts(ROW, None)) == [("payload", "20 bytes")]
    assert masked_values(ROW) == ["customer", "payload"]
    assert dict(content_facts(ROW, content)) == {"customer": "someone@example.com", "agent": "-", "payload": "{}"}
    erased = ROW._replace(has_customer=False, payload_bytes=0)
    assert list(content_facts(erased, None)) == [("payload", "erased")]
    assert dict(content_facts(erased, RowContent(None, None, b"", 1)))["payload"] == "erased"
    assert masked_values(erased) == []


@pytest.mark.parametrize(
    ("history", "facts"),
    [
        (replace(HISTORY, ahead=3), {"position": "3 pending rows of shard 1 ahead"}),
        (replace(HISTORY, parked_before=4), {"waits for": "row 4 of its interaction, which is parked"}),
        (
            replace(HISTORY, row=ROW._replace(state="parked", error="too large"), behind=1),
            {"error": "too large", "behind it": "1 waiting row of its interaction"},
        ),
        (
            replace(HISTORY, row=ROW._replace(state="sent", sent_at_ms=2_500)),
            {"marked sent": f"{format_time(2_500)}, 1.500 s later"},
        ),
    ],
)
def test_a_row_says_what_keeps_it_or_when_it_was_sent(history: RowHistory, facts: dict[str, str]) -> None:
    """Its place in the shard, the parked row before it, its error and the rows behind it, or the delay."""
    assert dict(sending_facts(history)) == facts


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        (None, "no call"),
        (StoredCall("done", 1, 200, None, 12, 0, None), "done, 1 attempt, last response 200 in 12 ms"),
        (StoredCall("parked", 20, None, "timeout", None, 0, None), "parked, 20 attempts, last response timeout"),
        (StoredCall("due", 0, None, None, None, 9, "r-1"), "due, 0 attempts, last response none, claimed by r-1"),
        (
            StoredCall("due", 0, None, None, None, 9_000, None),
            f"due, 0 attempts, last response none, due {format_time(9_000)}",
        ),
    ],
)
def test_a_call_has_its_state_attempts_and_last_response(call: StoredCall | None, fact: str) -> None:
    """And who claimed it, or when it is due."""
    assert list(later_facts(replace(HISTORY, call=call))) == [("inference", fact)]


def test_replays_and_changes_come_last() -> None:
    """In both directions, and each change with its reason."""
    entry = AuditEntry(3, 1_000, "ann", "retry", "{}", "limit raised", "[7]", "", "ann")
    history = replace(HISTORY, originals=[Replay(2, None, None)], replays=[Replay(9, 7, "sent")], audit=[entry])
    assert list(later_facts(history))[1:] == [
        ("replay of", "2 (pruned)"),
        ("replayed as", "9 (sent), of 7"),
        ("audit", f"{format_time(1_000)} ann retry: limit raised (entry 3)"),
    ]
