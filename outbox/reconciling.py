"""After a restore: rows that the topic holds already are marked, and the shard may go on."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Engine

from outbox import audit, transactions
from outbox import shard_statements as sql
from outbox.rows import Lease, Order, Ref
from outbox.store import _lock, _mark


class SeenRecord(NamedTuple):
    """A record of the topic, as far as it names a row."""

    outbox_id: int
    interaction_id: str
    received_at_ms: int


class KnownRow(NamedTuple):
    """The row that a record of the topic is."""

    id: int
    tag: int
    shard: int
    state: str
    interaction_id: str
    received_at_ms: int

    @property
    def ref(self) -> Ref:
        """Id and tag."""
        return Ref(self.id, self.tag)

    @property
    def record(self) -> SeenRecord:
        """What its record shows of it."""
        return SeenRecord(self.id, self.interaction_id, self.received_at_ms)


def recognise(engine: Engine, records: Sequence[SeenRecord]) -> list[KnownRow]:
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
        return [KnownRow._make(row) for row in connection.execute(sql.RECOGNISE.on(connection), values)]


def unsent_before(engine: Engine, moment_ms: int) -> int:
    """How many rows not sent were received before a moment."""
    with transactions.read(engine) as connection:
        return int(connection.execute(sql.UNSENT_BEFORE.on(connection), {"moment_ms": moment_ms}).scalar_one())


def mark_found(
    engine: Engine, lease: Lease, sequence: int, refs: Sequence[Ref], order: Order, *, inference: bool
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
        audit.add(connection, f"reconcile shard {lease.shard}", order, sorted(ref.id for ref in refs))
    return marked


def overtake(engine: Engine, lease: Lease, sequence: int, verb: str, order: Order) -> None:
    """Settle a sequence that is further ahead, on an operator's word: the shard goes on from there.

    Args:
        engine: of the outbox.
        lease: of the shard, which is fenced.
        sequence: of the shard's last Kafka transaction.
        verb: for the record.
        order: who, and why.

    Raises:
        LeaseLostError: another epoch holds the shard; nothing has changed.
    """
    with transactions.write(engine) as connection:
        settled = _lock(connection, lease)
        if sequence > settled:
            connection.execute(sql.OVERTAKE.on(connection), {"shard": lease.shard, "sequence": sequence})
        audit.add(connection, f"{verb} shard {lease.shard}, settled {settled} to {max(settled, sequence)}", order, [])
