"""A shard's progress: comparing its row with its progress record in Kafka, and marking what the record proves.

The comparison shows whether the database or Kafka went back in time. ``mark_next`` is the ordinary case; everything
else runs in a transaction that holds the shard's lock.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row

from outbox.db import transactions
from outbox.errors import LeaseLostError
from outbox.models import Lease, RecordRef, RowRef
from outbox.sql import flow as sql
from outbox.sql import inference_queue
from outbox.sql.statement import bind_numbers, bind_rows

KAFKA_WENT_BACK_PREFIX = "Kafka went back in time"
"""The first words of a shard's condition while it waits for an operator because of this; its rows are not pruned."""


class ProgressVerdict(StrEnum):
    """How a shard's row and its last progress record fit together."""

    NOTHING_SENT = "nothing_sent_yet"
    """There is no record, and nothing was acknowledged."""
    PROGRESS_LOST = "progress_lost"
    """There is no record although something was acknowledged: the progress topic was lost or replaced."""
    IN_ORDER = "in_order"
    """The record is the acknowledged one or the next."""
    DATABASE_WENT_BACK = "database_went_back"
    """The record is more than one ahead: the database was restored, or failed over to a stale replica."""
    KAFKA_WENT_BACK = "kafka_went_back"
    """Kafka no longer has what was acknowledged: a broker was restored from an older copy, or lost its newest data."""


class ShardProgress(NamedTuple):
    """The progress that a shard's row shows."""

    acknowledged_sequence: int
    """Sequence of the last Kafka transaction whose rows are marked; 0: none."""
    record: RecordRef | None
    """The progress record of that transaction; None: unknown."""


class Acknowledgement(NamedTuple):
    """The result of acknowledging a progress record."""

    verdict: ProgressVerdict
    marked: int
    """Rows marked sent now."""
    shard: ShardProgress
    """The shard's progress before."""


def judge_progress(shard: ShardProgress, found: RecordRef | None) -> ProgressVerdict:
    """Compare a shard's row with a progress record: the last one in Kafka, or one just committed.

    Args:
        shard: the progress in the row.
        found: the record; None: there is none.
    """
    acknowledged, record = shard
    if found is None:
        return ProgressVerdict.PROGRESS_LOST if acknowledged else ProgressVerdict.NOTHING_SENT
    if found.sequence > acknowledged + 1:
        return ProgressVerdict.DATABASE_WENT_BACK
    if found.sequence < acknowledged:
        return ProgressVerdict.KAFKA_WENT_BACK
    if record is None:
        return ProgressVerdict.IN_ORDER
    fits = found == record if found.sequence == acknowledged else found.offset > record.offset
    return ProgressVerdict.IN_ORDER if fits else ProgressVerdict.KAFKA_WENT_BACK


def read_shard(connection: Connection, shard: int) -> ShardProgress:
    """Read a shard's progress, without its lock."""
    return _progress(connection.execute(sql.READ_SHARD.on(connection), {"shard": shard}).one())


def lock_shard(connection: Connection, lease: Lease) -> ShardProgress:
    """Lock the shard's row, and check the lease under the lock.

    Raises:
        LeaseLostError: another epoch holds the shard.
    """
    row = connection.execute(sql.LOCK_SHARD.on(connection), {"shard": lease.shard}).one()
    _require_epoch(lease, row)
    return _progress(row)


def require_lease(connection: Connection, lease: Lease) -> None:
    """Check the lease without locking the shard's row.

    Raises:
        LeaseLostError: another epoch holds the shard, or another sequence was acknowledged.
    """
    row = connection.execute(sql.READ_SHARD.on(connection), {"shard": lease.shard}).one()
    _require_epoch(lease, row)
    if row.acknowledged_sequence != lease.acknowledged_sequence:
        raise LeaseLostError(
            f"shard {lease.shard}: the database has acknowledged sequence {row.acknowledged_sequence}, this relay "
            f"{lease.acknowledged_sequence}: the database changed under the relay"
        )


def acknowledge(connection: Connection, shard: int, before: ShardProgress, found: RecordRef | None) -> ProgressVerdict:
    """Judge a progress record, and store it as the acknowledged one if it is in order. Needs the shard's lock."""
    verdict = judge_progress(before, found)
    if verdict is ProgressVerdict.PROGRESS_LOST:
        connection.execute(sql.FORGET_PROGRESS_RECORD.on(connection), {"shard": shard})
    elif verdict is ProgressVerdict.IN_ORDER and found is not None and found != before.record:
        connection.execute(sql.ACKNOWLEDGE.on(connection), {"shard": shard, **found._asdict()})
    return verdict


def mark_next(engine: Engine, lease: Lease, record: RecordRef, refs: Sequence[RowRef], *, inference: bool) -> int:
    """Acknowledge a progress record and mark its rows sent, if the lease is ours and the record is the next.

    On PostgreSQL this is a single statement, so one round trip.

    Args:
        engine: of the outbox.
        lease: of the shard.
        record: of a committed Kafka transaction.
        refs: the rows of the transaction; at least one.
        inference: add an inference call for each row that is marked.

    Returns:
        How many rows were marked. If not all: nothing was done, or some rows were not pending any more.
    """
    ids = [ref.id for ref in refs]
    is_one_statement = engine.dialect.name == "postgresql"
    with (transactions.autocommit if is_one_statement else transactions.write)(engine) as connection:
        values = {
            **lease._asdict(),
            **record._asdict(),
            "first_id": min(ids),
            "last_id": max(ids),
            "nonces": bind_numbers(connection, (ref.nonce for ref in refs)),
            "inference": inference,
            "blocked_delay_ms": inference_queue.BLOCKED_DELAY_MS,
        }
        marked = sql.ACKNOWLEDGE_AND_MARK.run(connection, values).rowcount
        if inference and marked and not is_one_statement:
            _add_calls(connection, lease.shard, record.sequence, refs)
        return marked


def mark_rows(connection: Connection, shard: int, sequence: int, refs: Sequence[RowRef], *, inference: bool) -> int:
    """Mark rows sent; return how many. Needs the shard's lock.

    Args:
        connection: in the transaction that holds the lock.
        shard: the shard of the rows.
        sequence: of their Kafka transaction.
        refs: the rows. Rows that are sent already, or whose id belongs to another row now, are left alone.
        inference: add an inference call for each row that is marked.
    """
    if not refs:
        return 0
    values = {"shard": shard, "sequence": sequence, **bind_rows(connection, RowRef._fields, refs)}
    marked = sql.MARK_SENT.run(connection, values).rowcount
    if inference and marked:
        _add_calls(connection, shard, sequence, refs)
    return marked


def _add_calls(connection: Connection, shard: int, sequence: int, refs: Sequence[RowRef]) -> None:
    values = {
        "shard": shard,
        "sequence": sequence,
        "ids": bind_numbers(connection, (ref.id for ref in refs)),
        "blocked_delay_ms": inference_queue.BLOCKED_DELAY_MS,
    }
    connection.execute(inference_queue.ADD_CALLS.on(connection), values)


def _require_epoch(lease: Lease, row: Row[Any]) -> None:
    if (row.owner, row.epoch) != (lease.owner, lease.epoch):
        raise LeaseLostError(f"shard {lease.shard} belongs to {row.owner} now (epoch {row.epoch})")


def _progress(row: Row[Any]) -> ShardProgress:
    sequence, offset, digest = row.acknowledged_sequence, row.progress_offset, row.progress_digest
    return ShardProgress(sequence, RecordRef(sequence, offset, digest) if offset is not None else None)
