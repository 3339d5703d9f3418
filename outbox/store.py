"""The verbs of the flow: what the web process and the relay do to the database.

Every verb is one database transaction (or one read), may be called from many threads, and can be
repeated after ``DatabaseUnavailableError`` without harm.
"""

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Engine

from outbox import bell, call_statements, recording, rights, transactions
from outbox import shard_statements as shard_sql
from outbox import statements as sql
from outbox.errors import LeaseLostError, OutboxMismatchError, SchemaOutdatedError
from outbox.rows import (
    Accepted,
    CallsLeft,
    Contact,
    Identity,
    Lease,
    NewRow,
    PendingRow,
    RecordOutcome,
    Ref,
    ShardStatus,
)

REQUIRED_REVISION = "0007"
"""Oldest schema revision that this code runs on; revisions are numbered, so they compare as text."""


class Store:
    """The outbox in one database.

    Args:
        engine: from ``outbox.engine.create_outbox_engine``.
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
        return recording.record(self._engine, rows)

    def ring(self, outcomes: Sequence[RecordOutcome]) -> None:
        """Tell listening relays of rows just recorded; never fails. By itself, so that no sender waits for it."""
        new = [o.interaction_id for o in outcomes if isinstance(o, Accepted) and not o.duplicate]
        if new:
            bell.ring(self._engine, new)

    def pending_at_least(self, limit: int) -> bool:
        """Whether the backlog has reached ``limit`` rows; reads no more than that."""
        with transactions.read(self._engine) as connection:
            return bool(connection.execute(sql.BACKLOG.on(connection), {"limit": limit}).scalar_one() >= limit)

    def check_writable(self, role: str = rights.WEB) -> None:
        """Return if the role has its rights, the schema is recent enough and a write goes through.

        Args:
            role: whose rights are asked for, of ``outbox.rights``.

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
            connection.execute(sql.TOUCH.on(connection))

    # The carrier's verbs ---------------------------------------------------------------------------

    def pending(self, lease: Lease, limit: int, *, waiting: bool = True) -> list[PendingRow]:
        """The next rows of a shard in id order, at most ``limit``, in one snapshot with the shard's row.

        Args:
            waiting: leave out rows whose interaction has an earlier parked row.

        Raises:
            LeaseLostError: another epoch holds the shard, or the settled sequence is not
                ``lease.settled``: the shard must be taken anew before anything is sent.
        """
        query = sql.PENDING_WAIT if waiting else sql.PENDING_PASS
        with transactions.single(self._engine) as connection:
            found = transactions.tuples(connection.execute(query.on(connection), {**lease._asdict(), "limit": limit}))
            if not found:
                _insist_on_all(lease, connection)
        return list(map(PendingRow._make, found))

    def mark_sent(self, shard: int, sequence: int, refs: Sequence[Ref], *, inference: bool) -> int:
        """Mark rows of a committed Kafka transaction sent and settle its sequence.

        No lease is checked: a commit is a fact, whoever records it. Rows that another row has taken
        the id of (other tag), or that are sent already, are left alone.

        Args:
            sequence: of the transaction; settled if it follows the settled one, else left.
            inference: make an inference call due for each row, in the same transaction.

        Returns:
            The shard's settled sequence afterwards.
        """
        with transactions.write(self._engine) as connection:
            settled = connection.execute(sql.SETTLE.on(connection), {"shard": shard, "sequence": sequence}).scalar_one()
            _mark(connection, shard, sequence, refs, inference=inference, pending=True)
            return int(settled)

    def settle_record(self, lease: Lease, sequence: int, refs: Sequence[Ref], *, inference: bool) -> tuple[int, int]:
        """Record what a progress record proves: its rows are in Kafka.

        The shard's row is locked and the lease checked even if there is nothing to mark: an owner
        that lost the shard must not go on as if it held it.

        Returns:
            Number of rows marked now, and the settled sequence afterwards: more than one behind
            ``sequence`` if the database went back in time (then nothing more may be sent).

        Raises:
            LeaseLostError: another epoch holds the shard.
        """
        with transactions.write(self._engine) as connection:
            settled = _lock(connection, lease)
            if sequence > settled + 1 or not sequence:
                return 0, settled
            settled = connection.execute(
                sql.SETTLE.on(connection), {"shard": lease.shard, "sequence": sequence}
            ).scalar_one()
            return _mark(connection, lease.shard, sequence, refs, inference=inference, pending=False), settled

    def park(self, lease: Lease, errors: Mapping[Ref, str]) -> int:
        """Park pending rows that the encoder or Kafka refuses, each with its error; return how many.

        Raises:
            LeaseLostError: another epoch holds the shard; it finds out for itself.
        """
        with transactions.write(self._engine) as connection:
            _lock(connection, lease)
            rows = [{"id": r.id, "tag": r.tag, "shard": lease.shard, "error": e} for r, e in errors.items()]
            return connection.execute(sql.PARK.on(connection), rows).rowcount

    def learn(self, learned: Sequence[tuple[PendingRow, Contact]]) -> list[PendingRow]:
        """Store what CXone knows of pending rows, be it nothing, in one statement.

        Returns:
            The rows as they are now. One is missing that is not pending any more, was completed before, or
            has another tag.
        """
        if not learned:
            return []
        values = [(row.id, row.tag, *contact) for row, contact in learned]
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
            return CallsLeft._make(connection.execute(call_statements.CALLS_LEFT.on(connection)).one())


def _listed(connection: Connection, values: Sequence[tuple[object, ...]]) -> dict[str, object]:
    if connection.dialect.name == "postgresql":
        ids, tags, emails, agents = (list(column) for column in zip(*values, strict=True))
        return {"ids": ids, "tags": tags, "emails": emails, "agents": agents}
    return {"learned": json.dumps(values)}


def _lock(connection: Connection, lease: Lease) -> int:
    """Lock the shard's row, check the lease under the lock, return the settled sequence."""
    owner, epoch, settled = connection.execute(sql.LOCK_SHARD.on(connection), {"shard": lease.shard}).one()
    _insist_on(lease, owner, epoch)
    return int(settled)


def _insist_on(lease: Lease, owner: str | None, epoch: int) -> None:
    if (owner, epoch) != (lease.owner, lease.epoch):
        raise LeaseLostError(f"shard {lease.shard} belongs to {owner} now (epoch {epoch})")


def _insist_on_all(lease: Lease, connection: Connection) -> None:
    owner, epoch, settled = connection.execute(sql.READ_SHARD.on(connection), {"shard": lease.shard}).one()
    _insist_on(lease, owner, epoch)
    if settled != lease.settled:
        raise LeaseLostError(
            f"shard {lease.shard} is settled at {settled} in the database, at {lease.settled} here: "
            "the database changed under the relay"
        )


def _mark(
    connection: Connection, shard: int, sequence: int, refs: Sequence[Ref], *, inference: bool, pending: bool
) -> int:
    """Mark rows sent; ``pending``: nearly all of them are pending."""
    if not refs:
        return 0
    marked = 0
    if pending:
        ids = [ref.id for ref in refs]
        span = {"shard": shard, "sequence": sequence, "first_id": min(ids), "last_id": max(ids)}
        parameters = {**span, "tags": sql.bind_tags(connection, refs)}
        marked = connection.execute(sql.MARK_PENDING.on(connection), parameters).rowcount
    if marked < len(refs):
        parameters = {"sequence": sequence, **sql.bind_refs(connection, refs)}
        marked += connection.execute(sql.MARK_SENT.on(connection), parameters).rowcount
    if inference and marked:
        parameters = {"shard": shard, "sequence": sequence, "ids": sql.bind_ids(connection, refs)}
        connection.execute(call_statements.CALLS_DUE.on(connection), parameters)
    return marked


def _identity(connection: Connection) -> Identity:
    row = connection.execute(sql.IDENTITY.on(connection)).one_or_none()
    if row is None:
        raise SchemaOutdatedError("the outbox has no identity: relay migrate")
    return Identity(*row)
