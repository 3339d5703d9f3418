"""A row's history as lines of text, for ``relay show``."""

from collections.abc import Iterator

from outbox.operators.format import format_actor, format_time, plural
from outbox.operators.row_history import RowHistory, StoredRow
from outbox.states import CallState, RowState
from relay.process.row_verification import KafkaRecord


def format_history(history: RowHistory, kafka: KafkaRecord, payload: bytes | None) -> Iterator[str]:
    """Yield the lines.

    Args:
        history: what the outbox knows.
        kafka: what the topic holds.
        payload: the body, if it is to be revealed with the personal values.
    """
    row = history.row
    yield f"row {row.id}: {row.state}"
    yield _line("interaction", f"{row.interaction_id}, {row.channel}, timestamp {row.timestamp_ms}")
    yield _line("received", format_time(row.received_at_ms))
    yield from _masked_content(row) if payload is None else _revealed_content(row, payload)
    yield from _progress(history)
    yield from _kafka(row, kafka, revealed=payload is not None)
    yield _line("inference", _call(history))
    for link in history.originals:
        yield _line("replay of", f"{link.id} ({link.state or 'pruned'})")
    for link in history.replays:
        yield _line("replayed as", f"{link.id} ({link.state}), of {link.replay_of}")
    for entry in history.audit:
        actor = f"{format_time(entry.at_ms)} {format_actor(entry)}"
        yield _line("audit", f"{actor} {entry.verb}: {entry.reason} (entry {entry.id})")


def _line(label: str, value: str) -> str:
    return f"  {label:<13} {value}"


def _revealed_content(row: StoredRow, payload: bytes) -> Iterator[str]:
    yield _line("customer", row.customer_email or "-")
    yield _line("agent", row.agent_id or "-")
    yield _line("payload", payload.decode(errors="replace") if row.payload_bytes else "erased")


def _masked_content(row: StoredRow) -> Iterator[str]:
    yield _line("payload", f"{row.payload_bytes} bytes" if row.payload_bytes else "erased")
    values = (("customer", row.customer_email), ("agent", row.agent_id), ("payload", row.payload_bytes))
    if masked := [name for name, value in values if value]:
        yield _line("masked", f"{', '.join(masked)} (--reveal --reason WHY shows them and is audited)")


def _progress(history: RowHistory) -> Iterator[str]:
    row = history.row
    if row.error is not None:
        yield _line("error", row.error)
    if history.parked_before is not None:
        yield _line("waits for", f"row {history.parked_before} of its interaction, which is parked")
    elif row.state == RowState.PENDING:
        yield _line("position", f"{plural(history.ahead, 'pending row')} of shard {row.shard} ahead")
    if row.state == RowState.PARKED:
        yield _line("behind it", f"{plural(history.behind, 'waiting row')} of its interaction")
    if row.sent_at_ms is not None:
        delay = (row.sent_at_ms - row.received_at_ms) / 1000
        yield _line("marked sent", f"{format_time(row.sent_at_ms)}, {delay:.3f} s later")


def _kafka(row: StoredRow, kafka: KafkaRecord, *, revealed: bool) -> Iterator[str]:
    if row.sequence is not None:
        name = f" ({kafka.transactional_id})" if kafka.transactional_id else ""
        yield _line("transaction", f"{row.sequence} of shard {row.shard}{name}")
    if kafka.record is None:
        yield _line("in Kafka", kafka.not_seen or "")
        return
    record = kafka.record
    headers = " ".join(f"{name}={value}" for name, value in record["headers"].items())
    yield _line("in Kafka", f"{record['topic']}, partition {record['partition']}, offset {record['offset']}")
    yield _line("record", f"{format_time(record['timestamp_ms'])}, {record['value']}, {headers}")
    if kafka.not_compared:
        yield _line("comparison", f"not compared: {kafka.not_compared}")
    elif kafka.differences is not None:
        names = ", ".join(sorted(kafka.differences))
        yield _line("comparison", f"DIFFERENT in {names}" if names else "the record matches the row")
        if revealed:
            for name, (ours, theirs) in sorted(kafka.differences.items()):
                yield _line("", f"{name}: the row has {ours!r}, the record {theirs!r}")


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
