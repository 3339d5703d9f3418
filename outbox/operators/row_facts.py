"""What the outbox knows about a row, as pairs of a label and a text, in the order of the row's life."""

from collections.abc import Iterator

from outbox.operators.format import format_actor, format_time, plural
from outbox.operators.row_history import RowContent, RowHistory, StoredRow
from outbox.states import CallState, RowState

Fact = tuple[str, str]


def receipt_facts(row: StoredRow) -> Iterator[Fact]:
    """Yield what was received, and when."""
    yield "interaction", f"{row.interaction_id}, {row.channel}, timestamp {row.timestamp_ms}"
    yield "received", format_time(row.received_at_ms)


def content_facts(row: StoredRow, content: RowContent | None) -> Iterator[Fact]:
    """Yield the payload and the personal values, or only the size of the payload if it is None: not revealed."""
    if content is None:
        yield "payload", f"{row.payload_bytes} bytes" if row.payload_bytes else "erased"
        return
    yield "customer", content.customer_email or "-"
    yield "agent", content.agent_id or "-"
    yield "payload", content.payload.decode(errors="replace") or "erased"


def masked_values(row: StoredRow) -> list[str]:
    """Return the labels of the values that ``content_facts`` shows only if they are revealed."""
    values = (("customer", row.has_customer), ("agent", row.has_agent), ("payload", row.payload_bytes))
    return [label for label, value in values if value]


def sending_facts(history: RowHistory) -> Iterator[Fact]:
    """Yield what keeps the row from being sent, or when it was."""
    row = history.row
    if row.error is not None:
        yield "error", row.error
    if history.parked_before is not None:
        yield "waits for", f"row {history.parked_before} of its interaction, which is parked"
    elif row.state == RowState.PENDING:
        yield "position", f"{plural(history.ahead, 'pending row')} of shard {row.shard} ahead"
    if row.state == RowState.PARKED:
        yield "behind it", f"{plural(history.behind, 'waiting row')} of its interaction"
    if row.sent_at_ms is not None:
        delay = (row.sent_at_ms - row.received_at_ms) / 1000
        yield "marked sent", f"{format_time(row.sent_at_ms)}, {delay:.3f} s later"


def later_facts(history: RowHistory) -> Iterator[Fact]:
    """Yield what happens after the row was sent: its inference call, its replays, and what operators did."""
    yield "inference", _call(history)
    for link in history.originals:
        yield "replay of", f"{link.id} ({link.state or 'pruned'})"
    for link in history.replays:
        yield "replayed as", f"{link.id} ({link.state}), of {link.replay_of}"
    for entry in history.audit:
        actor = f"{format_time(entry.at_ms)} {format_actor(entry)}"
        yield "audit", f"{actor} {entry.verb}: {entry.reason} (entry {entry.id})"


def _call(history: RowHistory) -> str:
    call = history.call
    if call is None:
        return "no call"
    last = f"last response {call.status or call.error or 'none'}"
    latency = f" in {call.latency_ms} ms" if call.latency_ms is not None else ""
    due = ""
    if call.state == CallState.DUE:
        due = f", claimed by {call.claimed_by}" if call.claimed_by else f", due {format_time(call.due_at_ms)}"
    return f"{call.state}, {plural(call.attempts, 'attempt')}, {last}{latency}{due}"
