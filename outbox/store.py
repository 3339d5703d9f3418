"""The outbox as the webhook and the relay use it.

Each method is one database transaction or one read, may be called from many threads, and can safely be repeated after
``DatabaseUnavailableError``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, Engine

from outbox import insert, notifications, progress
from outbox.db import rights, transactions
from outbox.db.diagnostics import clock_offset_seconds
from outbox.errors import MIGRATE, OutboxMismatchError, SchemaOutdatedError
from outbox.models import (
    Accepted,
    CallCounts,
    EnrichedFields,
    Identity,
    Lease,
    NewRow,
    PendingRow,
    RecordOutcome,
    RecordRef,
    RowRef,
    ShardStatus,
    StoredVerdict,
)
from outbox.progress import Acknowledgement, ProgressVerdict, ShardProgress
from outbox.sql import backlog, inference_queue, verification
from outbox.sql import flow as sql
from outbox.sql import shards as shard_sql
from outbox.sql.statement import bind_rows

REQUIRED_REVISION = "0001"
"""Oldest schema revision that this code runs on; revisions are numbered, so they compare as text."""

_REPLICATED = "replicated"
"""Key of what the pool stores with a connection."""


class Store:
    """The outbox in one database.

    Args:
        engine: from ``outbox.db.engine.create_outbox_engine``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # For the webhook -------------------------------------------------------------------------------

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """Commit new rows, in one transaction if none is refused; return an outcome for each, in order.

        Raises:
            DatabaseUnavailableError: no row is known to be committed. After a commit without an answer some may be: a
                repeated delivery finds its row by the key.
        """
        if not rows:
            return []
        return insert.record(self._engine, rows)

    def notify(self, outcomes: Sequence[RecordOutcome]) -> None:
        """Notify relays of rows just committed; never fails. Separate, so that no sender waits for it."""
        new = [o.interaction_id for o in outcomes if isinstance(o, Accepted) and not o.duplicate]
        if new:
            notifications.notify(self._engine, new)

    def pending_at_least(self, limit: int) -> bool:
        """Return whether the backlog has reached ``limit`` rows; reads no more than that."""
        with transactions.read(self._engine) as connection:
            pending = connection.execute(backlog.PENDING_UP_TO.on(connection), {"limit": limit}).scalar_one()
            return bool(pending >= limit)

    def check_writable(self, role: str = rights.WEB) -> None:
        """Return if the role has its rights, the schema is recent enough and a write succeeds.

        Args:
            role: a role of ``outbox.db.rights``. For the web role the write includes the table ``outbox``.

        Raises:
            SchemaOutdatedError, DatabaseUnavailableError
        """
        transactions.retry_once(lambda: self._check_writable(role))

    def _check_writable(self, role: str) -> None:
        with transactions.write(self._engine) as connection:
            rights.require(connection, role)
            revision = connection.execute(sql.REVISION.on(connection)).scalar_one_or_none() or "none"
            if revision < REQUIRED_REVISION:
                raise SchemaOutdatedError(
                    f"the database schema is at revision {revision}, this version needs {REQUIRED_REVISION}: "
                    f"run {MIGRATE}"
                )
            if role == rights.WEB:  # before the identity is locked, so that nobody waits for it meanwhile
                connection.execute(sql.INSERT_NOTHING.on(connection))
            connection.execute(sql.TOUCH_IDENTITY.on(connection))

    # For the relay ---------------------------------------------------------------------------------

    def pending(self, lease: Lease, limit: int, *, block_behind_parked: bool = True) -> list[PendingRow]:
        """Return the next rows of a shard in id order, in one snapshot with the shard's row.

        Args:
            limit: maximum number of rows.
            block_behind_parked: leave out rows whose interaction has an earlier parked row.

        Raises:
            LeaseLostError: another epoch holds the shard, or the acknowledged sequence is not
                ``lease.acknowledged_sequence``: take the shard again before sending anything.
        """
        query = sql.SELECT_PENDING_UNBLOCKED if block_behind_parked else sql.SELECT_PENDING
        with transactions.autocommit(self._engine) as connection:
            _require_replicated(connection)
            found = transactions.tuples(connection.execute(query.on(connection), {**lease._asdict(), "limit": limit}))
            if not found:
                progress.require_lease(connection, lease)
        return list(map(PendingRow._make, found))

    def mark_sent(self, lease: Lease, record: RecordRef, refs: Sequence[RowRef], *, inference: bool) -> Acknowledgement:
        """Mark the rows of a committed Kafka transaction sent, and acknowledge its progress record if it is the next.

        Locks the shard's row and checks the lease: a relay that took the shard meanwhile reads back what Kafka has, and
        only that counts. Rows that are sent already, or whose id belongs to another row now, are left alone.

        Args:
            record: the transaction's progress record.
            refs: the transaction's rows.
            inference: add an inference call for each row, in the same transaction.

        Returns:
            With ``ProgressVerdict.KAFKA_WENT_BACK`` or ``ProgressVerdict.DATABASE_WENT_BACK`` the rows were marked and
            nothing was acknowledged; then nothing more may be sent.

        Raises:
            LeaseLostError: another epoch holds the shard; nothing was marked.
        """
        marked = progress.mark_next(self._engine, lease, record, refs, inference=inference) if refs else 0
        if refs and marked == len(refs):
            return Acknowledgement(ProgressVerdict.IN_ORDER, marked, ShardProgress(record.sequence - 1, None))
        with transactions.write(self._engine) as connection:
            shard = progress.lock_shard(connection, lease)
            verdict = progress.acknowledge(connection, lease.shard, shard, record)
            marked += progress.mark_rows(connection, lease.shard, record.sequence, refs, inference=inference)
            return Acknowledgement(verdict, marked, shard)

    def acknowledge_record(
        self, lease: Lease, record: RecordRef | None, refs: Sequence[RowRef], *, inference: bool
    ) -> Acknowledgement:
        """Acknowledge the shard's last progress record as read back: its rows are in Kafka.

        Locks the shard's row and checks the lease even if there is nothing to mark: a relay that lost the shard must
        not continue.

        Args:
            record: as read back; None: there is none.
            refs: its rows.
            inference: add an inference call for each row that is marked.

        Returns:
            With ``ProgressVerdict.KAFKA_WENT_BACK`` the rows were marked and nothing was acknowledged, with
            ``ProgressVerdict.DATABASE_WENT_BACK`` neither was done; then nothing more may be sent.

        Raises:
            LeaseLostError: another epoch holds the shard.
        """
        with transactions.write(self._engine) as connection:
            shard = progress.lock_shard(connection, lease)
            verdict = progress.acknowledge(connection, lease.shard, shard, record)
            marked = 0
            if record is not None and verdict is not ProgressVerdict.DATABASE_WENT_BACK:
                marked = progress.mark_rows(connection, lease.shard, record.sequence, refs, inference=inference)
            return Acknowledgement(verdict, marked, shard)

    def read_progress(self, shard: int) -> ShardProgress:
        """Return the progress that the shard's row shows."""
        with transactions.read(self._engine) as connection:
            return progress.read_shard(connection, shard)

    def park(self, lease: Lease, errors: Mapping[RowRef, str]) -> int:
        """Park pending rows that the encoder or Kafka rejects, each with its error; return how many.

        Raises:
            LeaseLostError: another epoch holds the shard, and will find out for itself.
        """
        with transactions.write(self._engine) as connection:
            progress.lock_shard(connection, lease)
            rows = [(*ref, error) for ref, error in errors.items()]
            values = {"shard": lease.shard, **bind_rows(connection, ("id", "nonce", "error"), rows)}
            return sql.PARK.run(connection, values).rowcount

    def store_enrichment(self, enriched: Sequence[tuple[PendingRow, EnrichedFields]]) -> list[PendingRow]:
        """Store what CXone returned for pending rows, also if it returned nothing, in one statement.

        Returns:
            The rows as they are now, without rows that are no longer pending, were enriched before, or were replaced
            by another row.
        """
        if not enriched:
            return []
        values = [(row.id, row.nonce, fields.customer_email, fields.agent_id) for row, fields in enriched]
        with transactions.write(self._engine) as connection:
            bound = bind_rows(connection, ("id", "nonce", "email", "agent"), values)
            stored = {row.id: row for row in connection.execute(sql.STORE_ENRICHMENT.on(connection), bound)}
        return [
            row._replace(customer_email=now.customer_email, agent_id=now.agent_id, enriched_at_ms=now.enriched_at)
            for row, _ in enriched
            if (now := stored.get(row.id))
        ]

    # Identity and status ---------------------------------------------------------------------------

    def identity(self) -> Identity:
        """Return which outbox this is.

        Raises:
            SchemaOutdatedError: the migrations have not run.
        """
        with transactions.read(self._engine) as connection:
            return _identity(connection)

    def bind_identity(self, wanted: Identity) -> None:
        """Store what the outbox is used with at its first use; afterwards require the same.

        Raises:
            OutboxMismatchError: names each difference.
        """
        with transactions.write(self._engine) as connection:
            connection.execute(sql.BIND_IDENTITY.on(connection), asdict(wanted))
            known = _identity(connection)
        if known.outbox_id != wanted.outbox_id:
            raise OutboxMismatchError(
                f"the database holds outbox {known.outbox_id}, but this relay started with outbox {wanted.outbox_id}: "
                "restart this relay"
            )
        differences = [
            f"{name.replace('_', ' ')} was {getattr(known, name)!r}, is {value!r}"
            for name, value in asdict(wanted).items()
            if getattr(known, name) != value
        ]
        if differences:
            raise OutboxMismatchError(
                "this outbox was used with other settings, and sending with these could lose or duplicate rows: "
                + "; ".join(differences)
            )

    def status(self) -> list[ShardStatus]:
        """Return the status of each shard; the cost follows the backlog, not history."""
        with transactions.read(self._engine) as connection:
            return [ShardStatus._make(row) for row in connection.execute(shard_sql.STATUS.on(connection))]

    def clock_offset_seconds(self) -> float:
        """Return how far this process's clock is ahead of the database's; negative: behind."""
        with transactions.read(self._engine) as connection:
            return clock_offset_seconds(connection)

    def count_calls(self) -> CallCounts:
        """Count the inference calls that are not done; the cost follows their number, not history."""
        with transactions.read(self._engine) as connection:
            return CallCounts._make(connection.execute(inference_queue.COUNT_CALLS.on(connection)).one())

    def last_verdict(self) -> StoredVerdict | None:
        """Return the last result of ``relay verify``; None: it never ran."""
        with transactions.read(self._engine) as connection:
            row = connection.execute(verification.LAST_VERDICT.on(connection)).one_or_none()
        if row is None:
            return None
        faults = json.loads(row.faults)
        return StoredVerdict(row.at, row.since, row.until, bool(row.with_values), row.compared, faults)

    def store_verdict(self, verdict: StoredVerdict) -> None:
        """Replace the last result of ``relay verify``."""
        with transactions.write(self._engine) as connection:
            values = {**verdict._asdict(), "values": int(verdict.values), "faults": json.dumps(verdict.faults)}
            connection.execute(verification.STORE_VERDICT.on(connection), values)


def _require_replicated(connection: Connection) -> None:
    """Wait on each new session until the synchronous standby has the rows that are visible.

    A crash of the primary makes commits visible that were still waiting for the standby, and ends every session. A
    relay that sent such rows would send them again after a promotion of the standby, under other ids.
    """
    if connection.dialect.name == "postgresql" and not connection.info.get(_REPLICATED):
        connection.execute(sql.LOCK_IDENTITY.on(connection))
        connection.info[_REPLICATED] = True


def _identity(connection: Connection) -> Identity:
    row = connection.execute(sql.IDENTITY.on(connection)).one_or_none()
    if row is None:
        raise SchemaOutdatedError(f"the outbox has no identity: run {MIGRATE}")
    return Identity(*row)
