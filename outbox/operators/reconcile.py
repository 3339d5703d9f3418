"""Reconciling after the database or Kafka went back in time: rows are marked as the topic has them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.models import Lease, RecordRef, RowRef
from outbox.operators import audit
from outbox.operators.audit import AuditContext
from outbox.progress import lock_shard, mark_rows
from outbox.sql import reconcile as sql
from outbox.sql.reshard import RAISE_TIMEOUTS
from outbox.sql.statement import bind_rows

PAGE_ROWS = 5_000


class TopicRecord(NamedTuple):
    """What a record of the topic shows of its row."""

    outbox_id: int
    interaction_id: str
    received_at_ms: int


class KnownRow(NamedTuple):
    """The row of a record of the topic."""

    id: int
    nonce: int
    shard: int
    state: str
    interaction_id: str
    received_at_ms: int

    @property
    def ref(self) -> RowRef:
        """Id and nonce."""
        return RowRef(self.id, self.nonce)

    @property
    def record(self) -> TopicRecord:
        """What its record shows."""
        return TopicRecord(self.id, self.interaction_id, self.received_at_ms)


class SentRow(NamedTuple):
    """A row that is marked sent."""

    id: int
    nonce: int
    received_at_ms: int
    topic: str | None
    """The topic of a replay; None: the configured topic."""

    @property
    def ref(self) -> RowRef:
        """Id and nonce."""
        return RowRef(self.id, self.nonce)


def match_records(engine: Engine, records: Sequence[TopicRecord]) -> list[KnownRow]:
    """Return the rows of these records: id, interaction and time of receipt all match."""
    with transactions.read(engine) as connection:
        values = bind_rows(connection, TopicRecord._fields, records)
        return [KnownRow._make(row) for row in connection.execute(sql.MATCH_RECORDS.on(connection), values)]


def unsent_before(engine: Engine, moment_ms: int) -> int:
    """Count the rows that are not sent and were received before this time."""
    with transactions.read(engine) as connection:
        connection.execute(RAISE_TIMEOUTS.on(connection))
        return int(connection.execute(sql.UNSENT_BEFORE.on(connection), {"moment_ms": moment_ms}).scalar_one())


def mark_published(
    engine: Engine, lease: Lease, sequence: int, refs: Sequence[RowRef], context: AuditContext, *, inference: bool
) -> int:
    """Mark rows sent that were found in the topic, under the shard's lock, with an audit entry.

    Args:
        lease: of the shard, whose earlier producers are fenced.
        sequence: of the shard's last Kafka transaction; stored with the rows.
        refs: the rows; those that are already sent are left alone.
        context: for the audit.
        inference: add an inference call for each.

    Returns:
        The number of rows marked.

    Raises:
        LeaseLostError: another epoch holds the shard; nothing has changed.
    """
    with transactions.write(engine) as connection:
        lock_shard(connection, lease)
        marked = mark_rows(connection, lease.shard, sequence, refs, inference=inference)
        audit.add(connection, f"reconcile shard {lease.shard}", context, sorted(ref.id for ref in refs))
    return marked


def sent_above(engine: Engine, shard: int, sequence: int) -> Iterator[SentRow]:
    """Yield the shard's rows that transactions above a sequence sent, in id order."""
    after = -(2**63)
    while True:
        with transactions.read(engine) as connection:
            connection.execute(RAISE_TIMEOUTS.on(connection))
            values = {"shard": shard, "sequence": sequence, "after": after, "limit": PAGE_ROWS}
            page = [SentRow._make(row) for row in connection.execute(sql.SENT_ABOVE.on(connection), values)]
        yield from page
        if len(page) < PAGE_ROWS:
            return
        after = page[-1].id


def send_again(engine: Engine, lease: Lease, refs: Sequence[RowRef], context: AuditContext) -> int:
    """Make rows pending again that Kafka has lost, under the shard's lock, with an audit entry.

    Args:
        lease: of the shard, whose earlier producers are fenced.
        refs: the rows; those that are no longer marked sent are left alone.
        context: for the audit.

    Returns:
        The number of rows that are now pending.

    Raises:
        LeaseLostError: another epoch holds the shard; nothing has changed.
    """
    with transactions.write(engine) as connection:
        lock_shard(connection, lease)
        values = bind_rows(connection, RowRef._fields, refs)
        changed = sql.SEND_AGAIN.run(connection, values).rowcount
        audit.add(connection, f"send lost rows of shard {lease.shard} again", context, sorted(ref.id for ref in refs))
    return changed


def advance_sequence(engine: Engine, lease: Lease, record: RecordRef | None, verb: str, context: AuditContext) -> None:
    """Acknowledge a progress record by an operator's decision, unless a later one is; the shard may send again.

    Args:
        lease: of the shard, whose earlier producers are fenced.
        record: the shard's last one; None: there is none.
        verb: for the audit.
        context: for the audit.

    Raises:
        LeaseLostError: another epoch holds the shard; nothing has changed.
    """
    with transactions.write(engine) as connection:
        acknowledged = lock_shard(connection, lease).acknowledged_sequence
        if record and record.sequence >= acknowledged:
            connection.execute(sql.ADVANCE_SEQUENCE.on(connection), {"shard": lease.shard, **record._asdict()})
        now = max(acknowledged, record.sequence if record else 0)
        audit.add(connection, f"{verb} shard {lease.shard}, settled {acknowledged} to {now}", context, [])
