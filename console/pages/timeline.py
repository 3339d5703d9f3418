"""The life of a row as events in the order in which they happened."""

from typing import NamedTuple

from outbox.operators.format import plural
from outbox.operators.row_history import RowHistory
from outbox.states import RowState


class Event(NamedTuple):
    """Something that happened to a row."""

    at_ms: int | None
    """None: it has no time of its own."""
    title: str
    detail: str = ""
    row_id: int | None = None
    """Another row that it concerns."""


def timeline(history: RowHistory) -> list[Event]:
    """Return the events with a time in order, then what the row is now."""
    row = history.row
    events = [Event(row.received_at_ms, "received", f"{row.payload_bytes:,} bytes" if row.payload_bytes else "erased")]
    if row.enriched_at_ms is not None:
        events.append(
            Event(row.enriched_at_ms, "enriched", "CXone was asked for missing fields, or content was erased")
        )
    if row.sent_at_ms is not None:
        delay = (row.sent_at_ms - row.received_at_ms) / 1000
        detail = f"transaction {row.sequence} of shard {row.shard}, {delay:,.3f} s after receipt"
        events.append(Event(row.sent_at_ms, "marked sent", detail))
    events += [
        Event(entry.at_ms, f"{entry.verb} by {entry.actor}", f"{entry.reason} (entry {entry.id})")
        for entry in history.audit
    ]
    events.sort(key=lambda event: event.at_ms or 0)
    return [*_originals(history), *events, *_now(history), *_replays(history)]


def _originals(history: RowHistory) -> list[Event]:
    return [Event(None, "replay of", link.state or "pruned", link.id) for link in history.originals]


def _replays(history: RowHistory) -> list[Event]:
    return [Event(None, "replayed as", f"{link.state}, of {link.replay_of}", link.id) for link in history.replays]


def _now(history: RowHistory) -> list[Event]:
    """Return what keeps the row, or what it keeps."""
    row = history.row
    if history.parked_before is not None:
        return [Event(None, "waits for", "a parked row of its interaction", history.parked_before)]
    if row.state == RowState.PENDING:
        return [Event(None, "pending", f"{plural(history.ahead, 'pending row')} of shard {row.shard} ahead")]
    if row.state == RowState.PARKED:
        return [Event(None, "parked", f"{plural(history.behind, 'row')} of its interaction waiting behind it")]
    if row.state == RowState.DISCARDED:
        return [Event(None, "discarded", "an operator decided that it is not sent")]
    return []
