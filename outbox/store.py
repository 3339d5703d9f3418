"""The verbs of the flow: what the web process and the relay do to the database.

Every verb is one database transaction (or one read), may be called from many threads, and can be
repeated after ``DatabaseUnavailableError`` without harm.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row

from outbox import insert, notifications
from outbox.db import rights, transactions
from outbox.errors import LeaseLostError, OutboxMismatchError, SchemaOutdatedError
from outbox.models import (
    Accepted,
    CallsLeft,
    EnrichedFields,
    Identity,
    Lease,
    NewRow,
    PendingRow,
    RecordOutcome,
    RecordRef,
    RowRef,
    ShardStatus,
)
from outbox.sql import flow as sql
from outbox.sql import inference_queue
from outbox.sql import shards as shard_sql
from outbox.verdicts import ShardRecord, Verdict, judge

REQUIRED_REVISION = "0007"
"""Oldest schema revision that this code runs on; revisions are numbered, so they compare as text."""


class Settlement(NamedTuple):
    """What was made of a progress record."""

    verdict: Verdict
    marked: int
    """Rows marked sent now."""
    shard: ShardRecord
    """The shard's row before."""


class Store:
    """The outbox in one database.

    Args:
        engine: from ``outbox.db.engine.create_outbox_engine``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # The door's verbs ------------------------------------------------------------------------------

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """Commit new rows, in one transaction if none is refused; one outcome for each, in order.

        Raises:
            DatabaseUnavailableError: none of the rows is known to be committed. After an unanswered
                commit some may be: a repeated delivery finds its row by the key.
        """
        if not rows:
            return []
        return insert.record(self._engine, rows)

    def notify(self, outcomes: Sequence[RecordOutcome]) -> None:
        """Tell listening relays of rows just recorded; never fails. By itself, so that no sender waits for it."""
        new = [o.interaction_id for o in outcomes if isinstance(o, Accepted) and not o.duplicate]
        if new:
            notifications.notify(self._engine, new)

    def pending_at_least(self, limit: int) -> bool:
        """Whether the backlog has reached ``limit`` rows; reads no more than that."""
        with transactions.read(self._engine) as connection:
            return bool(connection.execute(sql.BACKLOG.on(connection), {"limit": limit}).scalar_one() >= limit)

    def check_writable(self, role: str = rights.WEB) -> None:
        """Return if the role has its rights, the schema is recent enough and a write goes through: web's to ``outbox``.

        Args:
            role: whose rights are asked for, of ``outbox.db.rights``.

        Raises:
            SchemaOutdatedError, DatabaseUnavailableError
        """
        transactions.repeated(lambda: self._touch(role))

    def _touch(self, role: str) -> None:
        with transactions.write(self._engine) as connection:
            rights.insist(connection, role)
            revision = connection.execute(sql.REVISION.on(connection)).scalar_one_or_none() or "none"
            if revision < REQUIRED_REVISION:
                raise SchemaOutdatedError(
                    f"the database is at revision {revision}, this code needs {REQUIRED_REVISION}: relay migrate"
                )
            if role == rights.WEB:  # before the row is touched: nobody waits for it meanwhile
                connection.execute(sql.INSERT_NOTHING.on(connection))
            connection.execute(sql.TOUCH.on(connection))

    # The carrier's verbs ---------------------------------------------------------------------------

    def pending(self, lease: Lease, limit: int, *, block_behind_parked: bool = True) -> list[PendingRow]:
        """The next rows of a shard in id order, at most ``limit``, in one snapshot with the shard's row.

        Args:
            block_behind_parked: leave out rows whose interaction has an earlier parked row.

        Raises:
            LeaseLostError: another epoch holds the shard, or the settled sequence is not
                ``lease.acknowledged_sequence``: the shard must be taken anew before anything is sent.
        """
        query = sql.PENDING_BLOCK if block_behind_parked else sql.PENDING_SKIP
        with transactions.single(self._engine) as connection:
            found = transactions.tuples(connection.execute(query.on(connection), {**lease._asdict(), "limit": limit}))
            if not found:
                _insist_on_all(lease, connection)
        return list(map(PendingRow._make, found))

    def mark_sent(self, lease: Lease, record: RecordRef, refs: Sequence[RowRef], *, inference: bool) -> Settlement:
        """Mark rows of a committed Kafka transaction sent and settle its sequence, if it follows the settled one.

        The shard's row is locked and the lease checked: whoever took the shard meanwhile reads back what
        Kafka has, and only that is a fact. Rows that another row has taken the id of (other tag), or that are
        sent already, are left alone.

        Args:
            lease: held.
            record: the transaction's progress record.
            refs: the transaction's rows.
            inference: make an inference call due for each row, in the same transaction.

        Returns:
            With ``Verdict.KAFKA_WENT_BACK`` nothing was settled, and nothing more may be sent.

        Raises:
            LeaseLostError: another epoch holds the shard; nothing was marked.
        """
        with transactions.write(self._engine) as connection:
            shard = _lock(connection, lease)
            verdict = _settle(connection, lease.shard, shard, record)
            marked = _mark(connection, lease.shard, record.sequence, refs, inference=inference, pending=True)
            return Settlement(verdict, marked, shard)

    def settle_record(
        self, lease: Lease, record: RecordRef | None, refs: Sequence[RowRef], *, inference: bool
    ) -> Settlement:
        """Record what the shard's last progress record proves: its rows are in Kafka.

        The shard's row is locked and the lease checked even if there is nothing to mark: an owner
        that lost the shard must not go on as if it held it.

        Args:
            lease: held.
            record: as read back; None: there is none.
            refs: its rows.
            inference: make an inference call due for each row that is marked.

        Returns:
            With ``Verdict.KAFKA_WENT_BACK`` the rows were marked and nothing was settled, with
            ``Verdict.DATABASE_WENT_BACK`` neither was done; then nothing more may be sent.

        Raises:
            LeaseLostError: another epoch holds the shard.
        """
        with transactions.write(self._engine) as connection:
            shard = _lock(connection, lease)
            verdict = _settle(connection, lease.shard, shard, record)
            marked = 0
            if record is not None and verdict is not Verdict.DATABASE_WENT_BACK:
                marked = _mark(connection, lease.shard, record.sequence, refs, inference=inference, pending=False)
            return Settlement(verdict, marked, shard)

    def progress_of(self, shard: int) -> ShardRecord:
        """What the shard's row says of its progress."""
        with transactions.read(self._engine) as connection:
            return _progress(connection.execute(sql.READ_SHARD.on(connection), {"shard": shard}).one())

    def park(self, lease: Lease, errors: Mapping[RowRef, str]) -> int:
        """Park pending rows that the encoder or Kafka refuses, each with its error; return how many.

        Raises:
            LeaseLostError: another epoch holds the shard; it finds out for itself.
        """
        with transactions.write(self._engine) as connection:
            _lock(connection, lease)
            rows = [{"id": r.id, "nonce": r.nonce, "shard": lease.shard, "error": e} for r, e in errors.items()]
            return connection.execute(sql.PARK.on(connection), rows).rowcount

    def learn(self, learned: Sequence[tuple[PendingRow, EnrichedFields]]) -> list[PendingRow]:
        """Store what CXone knows of pending rows, be it nothing, in one statement.

        Returns:
            The rows as they are now. One is missing that is not pending any more, was completed before, or
            has another tag.
        """
        if not learned:
            return []
        values = [(row.id, row.nonce, *contact) for row, contact in learned]
        with transactions.write(self._engine) as connection:
            found = {row.id: row for row in connection.execute(sql.LEARN.on(connection), _listed(connection, values))}
        return [
            row._replace(customer_email=now.customer_email, agent_id=now.agent_id, enriched_at_ms=now.enriched_at)
            for row, _ in learned
            if (now := found.get(row.id))
        ]

    # Identity and status ---------------------------------------------------------------------------

    def identity(self) -> Identity:
        """Which outbox this is.

        Raises:
            SchemaOutdatedError: the migrations have not run.
        """
        with transactions.read(self._engine) as connection:
            return _identity(connection)

    def bind_identity(self, wanted: Identity) -> None:
        """At first use, note what the outbox is used with; afterwards insist on it.

        Raises:
            OutboxMismatchError: names each difference.
        """
        with transactions.write(self._engine) as connection:
            connection.execute(
                sql.BIND_IDENTITY.on(connection),
                {
                    "outbox_id": wanted.outbox_id,
                    "topic": wanted.topic,
                    "progress_topic": wanted.progress_topic,
                    "transactional_id_prefix": wanted.transactional_id_prefix,
                    "cluster_id": wanted.cluster_id,
                },
            )
            known = _identity(connection)
        if known.outbox_id != wanted.outbox_id:
            raise OutboxMismatchError(
                f"the database holds outbox {known.outbox_id} now, and {wanted.outbox_id} when this relay started: "
                "restart this relay"
            )
        differences = [
            f"{name.replace('_', ' ')} was {getattr(known, name)!r}, is {getattr(wanted, name)!r}"
            for name in Identity.__dataclass_fields__
            if getattr(known, name) != getattr(wanted, name)
        ]
        if differences:
            raise OutboxMismatchError(
                "this outbox was used with other settings, and sending with these could lose or double rows: "
                + "; ".join(differences)
            )

    def status(self) -> list[ShardStatus]:
        """Each shard as operators see it; cost follows the backlog, not history."""
        with transactions.read(self._engine) as connection:
            return [ShardStatus._make(row) for row in connection.execute(shard_sql.STATUS.on(connection))]

    def calls_left(self) -> CallsLeft:
        """Inference calls that are not done; cost follows their number, not history."""
        with transactions.read(self._engine) as connection:
            return CallsLeft._make(connection.execute(inference_queue.CALLS_LEFT.on(connection)).one())


def _listed(connection: Connection, values: Sequence[tuple[object, ...]]) -> dict[str, object]:
    if connection.dialect.name == "postgresql":
        ids, nonces, emails, agents = (list(column) for column in zip(*values, strict=True))
        return {"ids": ids, "nonces": nonces, "emails": emails, "agents": agents}
    return {"learned": json.dumps(values)}


def _lock(connection: Connection, lease: Lease) -> ShardRecord:
    """Lock the shard's row, check the lease under the lock, return what the row says of its progress."""
    row = connection.execute(sql.LOCK_SHARD.on(connection), {"shard": lease.shard}).one()
    _insist_on(lease, row.owner, row.epoch)
    return _progress(row)


def _progress(row: Row[Any]) -> ShardRecord:
    known = row.progress_sequence is not None and row.progress_sequence == row.acknowledged_sequence
    record = RecordRef(row.progress_sequence, row.progress_offset, row.progress_digest) if known else None
    return ShardRecord(row.acknowledged_sequence, record)


def _settle(connection: Connection, shard: int, known: ShardRecord, found: RecordRef | None) -> Verdict:
    """Under the shard's lock: judge a progress record, and settle it where it is in order."""
    verdict = judge(known, found)
    if verdict is Verdict.PROGRESS_LOST:
        connection.execute(sql.FORGET_RECORD.on(connection), {"shard": shard})
    elif verdict is Verdict.IN_ORDER and found is not None and found != known.record:
        connection.execute(sql.SETTLE.on(connection), {"shard": shard, **found._asdict()})
    return verdict


def _insist_on(lease: Lease, owner: str | None, epoch: int) -> None:
    if (owner, epoch) != (lease.owner, lease.epoch):
        raise LeaseLostError(f"shard {lease.shard} belongs to {owner} now (epoch {epoch})")


def _insist_on_all(lease: Lease, connection: Connection) -> None:
    row = connection.execute(sql.READ_SHARD.on(connection), {"shard": lease.shard}).one()
    _insist_on(lease, row.owner, row.epoch)
    if row.acknowledged_sequence != lease.acknowledged_sequence:
        raise LeaseLostError(
            f"shard {lease.shard} is settled at {row.acknowledged_sequence} in the database, "
            f"at {lease.acknowledged_sequence} here: the database changed under the relay"
        )


def _mark(
    connection: Connection, shard: int, sequence: int, refs: Sequence[RowRef], *, inference: bool, pending: bool
) -> int:
    """Mark rows sent; ``pending``: nearly all of them are pending."""
    if not refs:
        return 0
    marked = 0
    if pending:
        ids = [ref.id for ref in refs]
        span = {"shard": shard, "sequence": sequence, "first_id": min(ids), "last_id": max(ids)}
        parameters = {**span, "nonces": sql.bind_nonces(connection, refs)}
        marked = connection.execute(sql.MARK_PENDING.on(connection), parameters).rowcount
    if marked < len(refs):
        parameters = {"sequence": sequence, **sql.bind_refs(connection, refs)}
        marked += connection.execute(sql.MARK_SENT.on(connection), parameters).rowcount
    if inference and marked:
        parameters = {"shard": shard, "sequence": sequence, "ids": sql.bind_ids(connection, refs)}
        connection.execute(inference_queue.CALLS_DUE.on(connection), parameters)
    return marked


def _identity(connection: Connection) -> Identity:
    row = connection.execute(sql.IDENTITY.on(connection)).one_or_none()
    if row is None:
        raise SchemaOutdatedError("the outbox has no identity: relay migrate")
    return Identity(*row)
