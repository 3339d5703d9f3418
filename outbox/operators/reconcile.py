"""After database or Kafka went back in time: rows are marked as the topic has them, and the shard may send again."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.models import AuditContext, Lease, RecordRef, RowRef
from outbox.operators import audit
from outbox.sql import flow
from outbox.sql import shards as sql
from outbox.store import _lock, _mark

PAGE_ROWS = 5_000


class TopicRecord(NamedTuple):
    """A record of the topic, as far as it names a row."""

    outbox_id: int
    interaction_id: str
    received_at_ms: int


class KnownRow(NamedTuple):
    """The row that a record of the topic is."""

    id: int
    nonce: int
    shard: int
    state: str
    interaction_id: str
    received_at_ms: int

    @property
    def ref(self) -> RowRef:
        """Id and tag."""
        return RowRef(self.id, self.nonce)

    @property
    def record(self) -> TopicRecord:
        """What its record shows of it."""
        return TopicRecord(self.id, self.interaction_id, self.received_at_ms)


def match_records(engine: Engine, records: Sequence[TopicRecord]) -> list[KnownRow]:
    """The rows that these records are: id, interaction and time of receipt all match."""
    with transactions.read(engine) as connection:
        if connection.dialect.name == "postgresql":
            ids, interactions, received = zip(*records, strict=True) if records else ((), (), ())
            values: dict[str, object] = {
                "ids": list(ids),
                "interactions": list(interactions),
                "received": list(received),
            }
        else:
            values = {"records": json.dumps(records)}
        return [KnownRow._make(row) for row in connection.execute(sql.MATCH_RECORDS.on(connection), values)]


def unsent_before(engine: Engine, moment_ms: int) -> int:
    """How many rows not sent were received before a moment."""
    with transactions.read(engine) as connection:
        return int(connection.execute(sql.UNSENT_BEFORE.on(connection), {"moment_ms": moment_ms}).scalar_one())


def mark_published(
    engine: Engine, lease: Lease, sequence: int, refs: Sequence[RowRef], context: AuditContext, *, inference: bool
) -> int:
    """Mark rows sent that were found in the topic, under the shard's lock, with an audit entry.

    Args:
        engine: of the outbox.
        lease: of the shard, which is fenced.
        sequence: of the shard's last Kafka transaction; goes on record with the rows.
        refs: the rows; those that are sent meanwhile are left alone.
        order: who, and why.
        inference: make an inference call due for each.

    Returns:
        Number of rows marked.

    Raises:
        LeaseLostError: another epoch holds the shard; nothing has changed.
    """
    with transactions.write(engine) as connection:
        _lock(connection, lease)
        marked = _mark(connection, lease.shard, sequence, refs, inference=inference, pending=False)
        audit.add(connection, f"reconcile shard {lease.shard}", context, sorted(ref.id for ref in refs))
    return marked


class SentRow(NamedTuple):
    """A row that is marked sent."""

    id: int
    nonce: int
    received_at_ms: int
    topic: str | None
    """None: the usual one."""

    @property
    def ref(self) -> RowRef:
        """Id and tag."""
        return RowRef(self.id, self.nonce)


def sent_above(engine: Engine, shard: int, sequence: int) -> Iterator[SentRow]:
    """The shard's rows that were marked sent by transactions above a sequence, in id order."""
    after = -(2**63)
    while True:
        with transactions.read(engine) as connection:
            connection.execute(sql.TAKE_TIME.on(connection))
            values = {"shard": shard, "sequence": sequence, "after": after, "limit": PAGE_ROWS}
            page = [SentRow._make(row) for row in connection.execute(sql.SENT_ABOVE.on(connection), values)]
        yield from page
        if len(page) < PAGE_ROWS:
            return
        after = page[-1].id


def send_again(engine: Engine, lease: Lease, refs: Sequence[RowRef], context: AuditContext) -> int:
    """Make rows pending again that Kafka has lost, under the shard's lock, with an audit entry.

    Args:
        engine: of the outbox.
        lease: of the shard, which is fenced.
        refs: the rows; those that are not marked sent any more are left alone.
        order: who, and why.

    Returns:
        Number of rows that are pending now.

    Raises:
        LeaseLostError: another epoch holds the shard; nothing has changed.
    """
    with transactions.write(engine) as connection:
        _lock(connection, lease)
        changed = connection.execute(sql.SEND_AGAIN.on(connection), flow.bind_refs(connection, refs)).rowcount
        audit.add(connection, f"send lost rows of shard {lease.shard} again", context, sorted(ref.id for ref in refs))
    return changed


def advance_sequence(engine: Engine, lease: Lease, record: RecordRef | None, verb: str, context: AuditContext) -> None:
    """Settle a progress record on an operator's word, unless a later one is settled: the shard may send again.

    Args:
        engine: of the outbox.
        lease: of the shard, which is fenced.
        record: the shard's last one; None: there is none.
        verb: for the record.
        order: who, and why.

    Raises:
        LeaseLostError: another epoch holds the shard; nothing has changed.
    """
    with transactions.write(engine) as connection:
        settled = _lock(connection, lease).acknowledged_sequence
        if record and record.sequence >= settled:
            connection.execute(sql.ADVANCE_SEQUENCE.on(connection), {"shard": lease.shard, **record._asdict()})
        now = max(settled, record.sequence if record else 0)
        audit.add(connection, f"{verb} shard {lease.shard}, settled {settled} to {now}", context, [])
