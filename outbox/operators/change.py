"""Changing exactly the rows of a plan; each change is audited.

A change takes a chunk of a plan in one transaction, under the locks that it needs, so it is safe while relays run. Rows
that have changed since they were planned are left alone. The audit entry is written in the same transaction.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from outbox.db import transactions
from outbox.models import ERASED_PAYLOAD, new_nonce, replay_key
from outbox.operators import audit, prune
from outbox.operators.audit import AuditContext, AuditEntry, ChainReport
from outbox.operators.rows import NONE_GIVEN_UP, PlannedRow, RowFinder
from outbox.sql import audit as audit_sql
from outbox.sql import change as sql
from outbox.sql import prune as prune_sql
from outbox.sql.statement import bind_numbers, bind_rows


class EntrySpan(NamedTuple):
    """The audit entries of one verb."""

    first: int
    """Id of the first entry; other verbs may have entries in between."""
    last: int
    at_ms: int
    """When the last one was written."""


class _ReplayRow(NamedTuple):
    """A row to replay, and what its copy gets."""

    id: int
    nonce: int
    new_nonce: int
    key: str
    """In hexadecimal."""


class Operations(RowFinder):
    """What operators can do to one outbox.

    Each method that changes rows takes a chunk of a plan, and returns the ids of the rows that were changed.
    """

    def retry(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make parked rows pending again: they are sent before the rows that wait behind them."""
        with transactions.write(self._engine) as connection:
            bound = _lock_shards(connection, planned)
            return _write_audit(connection, "retry", context, sql.RETRY.run(connection, bound).scalars().all())

    def discard(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Decide that parked rows are not sent: the rows that wait behind them are sent."""
        with transactions.write(self._engine) as connection:
            bound = _lock_shards(connection, planned)
            discarded = connection.execute(sql.DISCARD.on(connection), bound).scalars().all()
            return _write_audit(connection, "discard", context, discarded)

    def erase(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Remove the customer's address and the body from rows in any state; the rest stays, and is still sent."""
        with transactions.write(self._engine) as connection:
            bound = _bind_planned(connection, planned)
            connection.execute(sql.LOCK_ROWS.on(connection), bound)
            erased = connection.execute(sql.ERASE.on(connection), {**bound, "erased": ERASED_PAYLOAD}).scalars().all()
            return _write_audit(connection, "erase", context, erased)

    def replay(
        self, plan: str, planned: Sequence[PlannedRow], context: AuditContext, topic: str | None = None
    ) -> list[int]:
        """Send sent or discarded rows again: as new rows, in the old order, with ``replay_of``.

        Args:
            plan: names this replay; a plan replays a row once, however often it is run.
            planned: the rows, in id order.
            context: for the audit.
            topic: the topic of the new rows; None: the configured topic.
        """
        with transactions.write(self._engine) as connection:
            connection.execute(sql.LOCK_ROWS_FOR_SHARE.on(connection), _bind_planned(connection, planned))
            rows = [_ReplayRow(row.id, row.nonce, new_nonce(), replay_key(plan, row.id).hex()) for row in planned]
            values = {**bind_rows(connection, _ReplayRow._fields, rows), "plan": plan, "topic": topic}
            replayed = connection.execute(sql.REPLAY.on(connection), values).scalars().all()
            return _write_audit(connection, replay_verb(plan), context, replayed)

    def call_again(self, plan: str, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make the inference calls of sent rows due again, once under the plan's name; nothing is sent to Kafka."""
        verb = call_again_verb(plan)
        with transactions.write(self._engine) as connection:
            ids = bind_numbers(connection, (row.id for row in planned))
            connection.execute(sql.LOCK_ROWS.on(connection), {"ids": ids})  # another run of the plan waits here
            done = set(
                connection.execute(audit_sql.ROWS_WITH_VERB.on(connection), {"ids": ids, "verb": verb}).scalars()
            )
            bound = _bind_planned(connection, [row for row in planned if row.id not in done])
            changed = connection.execute(sql.CALL_AGAIN.on(connection), bound).scalars().all()
            return _write_audit(connection, verb, context, changed)

    def called_again(self, plan: str) -> set[int]:
        """Return the rows whose call the named plan has made due again."""
        entries = self._query(audit_sql.ROW_IDS_OF_VERB, {"verb": call_again_verb(plan)})
        return {row_id for (row_ids,) in entries for row_id in json.loads(row_ids)}

    def retry_calls(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make parked inference calls due again, with the full number of attempts."""
        with transactions.write(self._engine) as connection:
            bound = _bind_planned(connection, planned)
            connection.execute(sql.LOCK_ROWS_FOR_SHARE.on(connection), bound)  # a call without its row would never end
            changed = connection.execute(sql.RETRY_CALLS.on(connection), bound).scalars().all()
            return _write_audit(connection, "inference retry", context, changed)

    def prune(self, planned: Sequence[PlannedRow], context: AuditContext, given_up: str = NONE_GIVEN_UP) -> list[int]:
        """Remove prunable rows, with their inference calls and their deduplication keys."""
        with transactions.write(self._engine) as connection:
            connection.execute(prune_sql.WAIT_FOR_LOCK.on(connection))
            return _write_audit(connection, "prune", context, prune.remove(connection, planned, given_up))

    # Audit -----------------------------------------------------------------------------------------

    def audit(self, row_id: int | None = None) -> Iterator[AuditEntry]:
        """Yield all audit entries, or those that concern a row; oldest first."""
        return audit.entries(self._engine, row_id)

    def entries_of(self, verb: str) -> EntrySpan | None:
        """Return which audit entries are of this verb; None: there is none."""
        ((first, last, at_ms),) = self._query(audit_sql.SPAN_OF_VERB, {"verb": verb})
        return None if first is None else EntrySpan(first, last, at_ms)

    def verify(self, head: str | None = None) -> ChainReport:
        """Verify the audit log; see ``audit.verify``."""
        return audit.verify(self._engine, head)


def replay_verb(plan: str) -> str:
    """Return the verb of a replay in the audit log."""
    return f"replay {plan}"


def call_again_verb(plan: str) -> str:
    """Return the verb of a replay of inference calls in the audit log."""
    return f"replay {plan} --inference-only"


def _bind_planned(connection: Connection, planned: Sequence[PlannedRow]) -> dict[str, object]:
    ids = bind_numbers(connection, (row.id for row in planned))
    return {"ids": ids, **bind_rows(connection, PlannedRow._fields, planned)}


def _lock_shards(connection: Connection, planned: Sequence[PlannedRow]) -> dict[str, object]:
    """Lock the shards of parked rows; return what a change of these rows binds."""
    bound = _bind_planned(connection, planned)
    shards = connection.execute(sql.LOCK_SHARDS.on(connection), bound).scalars().all()
    return {**bound, "shards": bind_numbers(connection, shards)}


def _write_audit(connection: Connection, verb: str, context: AuditContext, changed: Sequence[int]) -> list[int]:
    """Write the audit entry of the changed rows, if there are any; return their ids in order."""
    ids = sorted(changed)
    if ids:
        audit.add(connection, verb, context, ids)
    return ids
