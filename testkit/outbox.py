"""Shortcuts for tests of the outbox: record, park and mark rows as webhook and relay do, and read them."""

from collections.abc import Sequence

from sqlalchemy import Engine, text

from outbox.leases import Leases
from outbox.models import INT64_MAX, Accepted, Lease, NewRow, RecordRef, RowRef
from outbox.operators.change import Operations
from outbox.operators.placement import misplaced_ids
from outbox.operators.rows import PlannedRow, RowFilter
from outbox.states import RowState
from outbox.store import Store


def record(store: Store, rows: list[NewRow]) -> list[int]:
    """Commit rows; return their ids."""
    return [outcome.outbox_id for outcome in store.record(rows) if isinstance(outcome, Accepted)]


def park(store: Store, engine: Engine, errors: dict[int, str]) -> None:
    """Park pending rows as the shard's owner."""
    leases = Leases(engine, "relay-1", 10)
    lease = leases.take(0)
    assert lease is not None
    rows = {row.id: row.ref for row in store.pending(lease, 10_000, block_behind_parked=False)}
    store.park(lease, {rows[row_id]: error for row_id, error in errors.items()})
    leases.release(lease)


def record_ref(sequence: int) -> RecordRef:
    """Return the reference of a progress record, as it is when nothing goes wrong."""
    return RecordRef(sequence, 2 * sequence, f"digest {sequence}")


def mark(store: Store, sequence: int, refs: Sequence[RowRef], *, shard: int = 0, inference: bool = False) -> int:
    """Mark rows sent as the current owner of the shard; return the acknowledged sequence afterwards."""
    status = store.status()[shard]
    lease = Lease(shard, status.owner, status.epoch, status.acknowledged_sequence)  # type: ignore[arg-type] # nobody owns it as well
    store.mark_sent(lease, record_ref(sequence), refs, inference=inference)
    return store.status()[shard].acknowledged_sequence


def mark_sent(store: Store, sequence: int, rows: Sequence[PlannedRow], *, inference: bool = False) -> None:
    """Mark rows sent as the shard's owner."""
    mark(store, sequence, [RowRef(row.id, row.nonce) for row in rows], inference=inference)


def states(engine: Engine) -> dict[int, str]:
    """Return the state of each row."""
    with engine.connect() as connection:
        return {row.id: row.state for row in connection.execute(text("SELECT id, state FROM outbox_rows"))}


_INSERTS = {
    RowState.PENDING: "INSERT INTO outbox_pending (shard, id, nonce) VALUES (:shard, :id, :nonce)",
    RowState.SENT: "INSERT INTO outbox_sent (id, shard, sequence, sent_at) VALUES (:id, :shard, 1, 1)",
    RowState.PARKED: """
        INSERT INTO outbox_parked (id, nonce, shard, interaction_id, state, error, changed_at)
        VALUES (:id, :nonce, :shard, :interaction_id, 'parked', :error, 1)
    """,
    RowState.DISCARDED: """
        INSERT INTO outbox_parked (id, nonce, shard, interaction_id, state, error, changed_at)
        VALUES (:id, :nonce, :shard, :interaction_id, 'discarded', :error, 1)
    """,
}


def set_state(engine: Engine, where: str, state: str, error: str = "refused") -> None:
    """Give rows a state directly, without the product; what is sent, parked or discarded gets the time 1.

    Args:
        engine: of the outbox.
        where: condition on ``outbox_rows``.
        state: a ``RowState``.
        error: of parked and discarded rows.
    """
    with engine.begin() as connection:
        query = f"SELECT id, nonce, shard, interaction_id FROM outbox_rows WHERE {where}"
        values = [{**row._mapping, "error": error} for row in connection.execute(text(query))]
        for table in ("outbox_pending", "outbox_sent", "outbox_parked"):
            connection.execute(text(f"DELETE FROM {table} WHERE id = :id"), values)
        connection.execute(text(_INSERTS[RowState(state)]), values)


def assert_placed(engine: Engine) -> None:
    """Assert that the id of each row is in exactly one of the tables of pending, sent and parked rows."""
    assert misplaced_ids(engine, INT64_MAX) == []


def found(operations: Operations, **conditions: object) -> list[int]:
    """Return the ids that a filter finds."""
    return [row.id for row in operations.find(RowFilter(**conditions))]  # type: ignore[arg-type]


def planned(operations: Operations, **conditions: object) -> list[PlannedRow]:
    """Return the rows that a filter finds, as they are now."""
    return [row.planned for row in operations.find(RowFilter(**conditions))]  # type: ignore[arg-type]


def park_calls(engine: Engine, ids: Sequence[int], at_ms: int, error: str = "HTTP 422") -> None:
    """Park inference calls at a given time, as the worker does."""
    with engine.begin() as connection:
        values = [{"id": row_id, "at": at_ms, "error": error} for row_id in ids]
        connection.execute(
            text("UPDATE outbox_inference_call SET state = 'parked', error = :error, due_at = :at WHERE row_id = :id"),
            values,
        )


def call_states(engine: Engine) -> dict[int, str]:
    """Return the state of each row's inference call."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT row_id, state FROM outbox_inference_call"))
        return {row.row_id: row.state for row in found}
