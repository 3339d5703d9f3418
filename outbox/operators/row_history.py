"""Everything that the database knows about one row; and its content, with an audit entry."""

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.operators import audit
from outbox.operators.audit import AuditContext, AuditEntry
from outbox.sql import audit as audit_sql
from outbox.sql import row_history as sql
from outbox.sql.statement import Statement
from outbox.states import RowState

MAX_ENTRIES = 1_000
"""Audit entries of one row that are returned."""


class StoredRow(NamedTuple):
    """A row, without the personal data that it has."""

    id: int
    shard: int
    state: str
    interaction_id: str
    channel: str
    timestamp_ms: int
    traceparent: str | None
    replay_of: int | None
    error: str | None
    received_at_ms: int
    sent_at_ms: int | None
    """When it was marked sent, after its Kafka transaction was committed."""
    sequence: int | None
    """Sequence of that transaction in its shard."""
    enriched_at_ms: int | None
    """When CXone was asked for missing fields, even if it returned none."""
    topic: str | None
    """The topic of a replay; None: the configured topic."""
    has_customer: bool
    has_agent: bool
    payload_bytes: int


class PersonalValues(NamedTuple):
    """What a row's record has of a person."""

    customer_email: str | None
    agent_id: str | None


class RowContent(NamedTuple):
    """The personal data of a row, shown on record."""

    customer_email: str | None
    agent_id: str | None
    payload: bytes
    """Empty: erased."""
    entry_id: int
    """The audit entry that says who saw it, and why."""


class StoredCall(NamedTuple):
    """A row's inference call."""

    state: str
    attempts: int
    status: int | None
    error: str | None
    latency_ms: int | None
    due_at_ms: int
    """For ``due``: when it will be made, or when a worker's claim of it expires."""
    claimed_by: str | None


class Replay(NamedTuple):
    """One row in a chain of replays."""

    id: int
    replay_of: int | None
    state: str | None
    """None: the row was pruned."""


@dataclass(frozen=True, slots=True)
class RowHistory:
    """Everything that the database knows about a row."""

    row: StoredRow
    call: StoredCall | None
    ahead: int
    """For a pending row: rows of its shard before it."""
    parked_before: int | None
    """For a pending row: the first parked row of its interaction, which it waits for."""
    behind: int
    """For a parked row: pending rows of its interaction that wait for it."""
    originals: list[Replay]
    """The rows that it is a replay of, oldest first."""
    replays: list[Replay]
    """Its replays, and theirs."""
    audit: list[AuditEntry]
    """What operators did to it."""


class RowHistories:
    """The rows of one outbox, one at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, row_id: int) -> RowHistory | None:
        """Read everything about a row, in one snapshot; None: the outbox does not have it."""
        with transactions.read(self._engine) as connection:
            found = connection.execute(sql.ROW.on(connection), {"id": row_id}).one_or_none()
            return _history(connection, StoredRow._make(found)) if found else None

    def personal_values(self, row_id: int) -> PersonalValues | None:
        """Return what a row's record has of a person, to compare it; None: the outbox does not have the row."""
        with transactions.read(self._engine) as connection:
            found = connection.execute(sql.PERSONAL_VALUES.on(connection), {"id": row_id}).one_or_none()
        return PersonalValues._make(found) if found else None

    def reveal(self, row_id: int, context: AuditContext) -> RowContent | None:
        """Return a row's content, after adding an audit entry; None: the outbox does not have it."""
        with transactions.write(self._engine) as connection:
            found = connection.execute(sql.CONTENT.on(connection), {"id": row_id}).one_or_none()
            if found is None:
                return None
            entry_id = audit.add(connection, "reveal", context, [row_id])
        return RowContent(found.customer_email, found.agent_id, bytes(found.payload), entry_id)


def _history(connection: Connection, row: StoredRow) -> RowHistory:
    def number(query: Statement) -> int | None:
        return connection.execute(query.on(connection), row._asdict()).scalar_one_or_none()

    def replays(query: Statement) -> list[Replay]:
        return [Replay._make(link) for link in connection.execute(query.on(connection), {"id": row.id})]

    call = connection.execute(sql.CALL.on(connection), {"id": row.id}).one_or_none()
    entries = connection.execute(
        audit_sql.ENTRIES_OF_ROW.on(connection), {"row_id": row.id, "after": 0, "limit": MAX_ENTRIES}
    )
    pending = row.state == RowState.PENDING
    return RowHistory(
        row,
        StoredCall._make(call) if call else None,
        ahead=(number(sql.COUNT_PENDING_BEFORE) or 0) if pending else 0,
        parked_before=number(sql.FIRST_PARKED_BEFORE) if pending else None,
        behind=(number(sql.COUNT_PENDING_BEHIND) or 0) if row.state == RowState.PARKED else 0,
        originals=replays(sql.ORIGINALS) if row.replay_of is not None else [],
        replays=replays(sql.REPLAYS),
        audit=list(map(AuditEntry._make, entries)),
    )
