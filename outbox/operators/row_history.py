"""One row's whole life, as the database knows it; and its content, for who asks on the record."""

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.models import AuditContext, AuditEntry
from outbox.operators import audit
from outbox.sql import flow as sql
from outbox.sql import operators
from outbox.sql.flow import statement
from outbox.states import RowState

_ROW = statement("""
    SELECT id, shard, state, interaction_id, channel, timestamp_ms, customer_email, agent_id, traceparent, replay_of,
           error, received_at, sent_at, sequence, enriched_at, topic, length(payload) AS payload_bytes
    FROM outbox WHERE id = :id
""")
_PAYLOAD = statement("SELECT payload FROM outbox WHERE id = :id")
_CALL = statement("""
    SELECT state, attempts, status, error, latency_ms, due_at, claimed_by FROM outbox_inference_call WHERE row_id = :id
""")
_PARKED_BEFORE = statement("""
    SELECT id FROM outbox
    WHERE shard = :shard AND state = 'parked' AND interaction_id = :interaction_id AND id < :id ORDER BY id LIMIT 1
""")
_PENDING_BEHIND = statement("""
    SELECT count(*) FROM outbox
    WHERE shard = :shard AND state = 'pending' AND interaction_id = :interaction_id AND id > :id
""")
_PENDING_AHEAD = statement("SELECT count(*) FROM outbox WHERE shard = :shard AND state = 'pending' AND id < :id")
_ORIGINALS = statement("""
    WITH RECURSIVE up(id) AS (
        SELECT replay_of FROM outbox WHERE id = :id
        UNION SELECT o.replay_of FROM outbox AS o JOIN up ON o.id = up.id
    )
    SELECT up.id, o.replay_of, o.state FROM up LEFT JOIN outbox AS o ON o.id = up.id
    WHERE up.id IS NOT NULL ORDER BY up.id
""")
_REPLAYS = statement("""
    WITH RECURSIVE down(id) AS (
        SELECT id FROM outbox WHERE replay_of = :id
        UNION SELECT o.id FROM outbox AS o JOIN down ON o.replay_of = down.id
    )
    SELECT o.id, o.replay_of, o.state FROM down JOIN outbox AS o ON o.id = down.id ORDER BY o.id
""")
MOST_ENTRIES = 1_000
"""Audit entries of one row that are told."""


class StoredRow(NamedTuple):
    """A row with everything but its payload."""

    id: int
    shard: int
    state: str
    interaction_id: str
    channel: str
    timestamp_ms: int
    customer_email: str | None
    agent_id: str | None
    traceparent: str | None
    replay_of: int | None
    error: str | None
    received_at_ms: int
    sent_at_ms: int | None
    """When it was marked: its Kafka transaction was committed before."""
    sequence: int | None
    """Of that transaction, in its shard."""
    enriched_at_ms: int | None
    """When it was completed from CXone, be it with nothing."""
    topic: str | None
    """Where a replay goes; None: the usual topic."""
    payload_bytes: int


class StoredCall(NamedTuple):
    """A row's inference call."""

    state: str
    attempts: int
    status: int | None
    error: str | None
    latency_ms: int | None
    due_at_ms: int
    """With ``due``: when it is made, or when a worker's claim of it runs out."""
    claimed_by: str | None


class Replay(NamedTuple):
    """A link in a chain of replays."""

    id: int
    replay_of: int | None
    state: str | None
    """None: the row was pruned."""


@dataclass(frozen=True, slots=True)
class RowHistory:
    """Everything that the database knows about a row."""

    row: StoredRow
    call: StoredCall | None
    """None: there was none to make."""
    ahead: int
    """With ``pending``: rows of its shard before it."""
    parked_before: int | None
    """With ``pending``: the first parked row of its interaction, which it waits for."""
    behind: int
    """With ``parked``: pending rows of its interaction that wait for it."""
    originals: list[Replay]
    """What it is a replay of, the oldest first."""
    replays: list[Replay]
    """Its own replays, and theirs."""
    audit: list[AuditEntry]
    """What operators did to it."""


class RowHistories:
    """Looks rows up in one outbox.

    Args:
        engine: of the outbox.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, row_id: int) -> RowHistory | None:
        """Everything about a row, in one snapshot; None if the outbox does not hold it."""
        with transactions.read(self._engine) as connection:
            found = connection.execute(_ROW.on(connection), {"id": row_id}).one_or_none()
            return _history(connection, StoredRow._make(found)) if found else None

    def reveal(self, row_id: int, context: AuditContext) -> bytes | None:
        """A row's payload; that it was looked at goes on record before it is returned. None: no such row."""
        with transactions.write(self._engine) as connection:
            payload = connection.execute(_PAYLOAD.on(connection), {"id": row_id}).scalar_one_or_none()
            if payload is None:
                return None
            audit.add(connection, "reveal", context, [row_id])
        return bytes(payload)


def _history(connection: Connection, row: StoredRow) -> RowHistory:
    def number(query: sql.Statement) -> int | None:
        return connection.execute(query.on(connection), row._asdict()).scalar_one_or_none()

    def replays(query: sql.Statement) -> list[Replay]:
        return [Replay._make(link) for link in connection.execute(query.on(connection), {"id": row.id})]

    call = connection.execute(_CALL.on(connection), {"id": row.id}).one_or_none()
    naming = connection.execute(
        operators.AUDIT_OF_ROW.on(connection), {"row_id": row.id, "after": 0, "limit": MOST_ENTRIES}
    )
    pending = row.state == RowState.PENDING
    return RowHistory(
        row,
        StoredCall._make(call) if call else None,
        ahead=(number(_PENDING_AHEAD) or 0) if pending else 0,
        parked_before=number(_PARKED_BEFORE) if pending else None,
        behind=(number(_PENDING_BEHIND) or 0) if row.state == RowState.PARKED else 0,
        originals=replays(_ORIGINALS) if row.replay_of is not None else [],
        replays=replays(_REPLAYS),
        audit=list(map(AuditEntry._make, naming)),
    )
