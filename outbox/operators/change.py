"""Changing exactly the rows of a plan; each change is audited.

A change takes a chunk of a plan in one transaction, under the locks that it needs, so it is safe while relays run. Rows
that have changed since they were planned are left alone. The audit entry is written in the same transaction.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from outbox.db import transactions
from outbox.models import ERASED_PAYLOAD, new_nonce
from outbox.operators import audit, prune
from outbox.operators.audit import AuditContext, AuditEntry, ChainReport
from outbox.operators.rows import NONE_GIVEN_UP, PlannedRow, RowFinder, replay_prefix
from outbox.partitioner import interaction_hash
from outbox.sql import audit as audit_sql
from outbox.sql import change as sql
from outbox.sql import prune as prune_sql
from outbox.sql.statement import Statement, bind_numbers, bind_rows


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
    hash: int


class Operations(RowFinder):
    """What operators can do to one outbox.

    Each method that changes rows takes a chunk of a plan, and returns the ids of the rows that were changed.
    """

    def retry(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make parked rows pending again: they are sent before the rows that wait behind them."""
        return self._change_under_shard_locks("retry", sql.RETRY, planned, context)

    def discard(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Decide that parked rows are not sent: the rows that wait behind them are sent."""
        return self._change_under_shard_locks("discard", sql.DISCARD, planned, context)

    def erase(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Remove the customer's address and the body from rows in any state; the rest stays, and is still sent."""
        return self._change_under_shard_locks("erase", sql.ERASE, planned, context, erased=ERASED_PAYLOAD)

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
            shared = connection.execute(sql.LOCK_ROWS_FOR_SHARE.on(connection), _bind_planned(connection, planned))
            interactions = {row.id: row.interaction_id for row in shared}
            rows = [
                _ReplayRow(row.id, row.nonce, new_nonce(), interaction_hash(interactions[row.id]))
                for row in planned
                if row.id in interactions
            ]
            if not rows:
                return []
            values = {**bind_rows(connection, _ReplayRow._fields, rows), "prefix": replay_prefix(plan), "topic": topic}
            replayed = connection.execute(sql.REPLAY.on(connection), values).scalars().all()
            return _write_audit(connection, replay_verb(plan), context, replayed)

    def call_again(self, plan: str, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make the inference calls of sent rows due again; nothing is sent to Kafka."""
        return self._change_calls(call_again_verb(plan), sql.CALL_AGAIN, planned, context)

    def called_again(self, plan: str) -> set[int]:
        """Return the rows whose call the named plan has made due again."""
        entries = self._query(audit_sql.ROW_IDS_OF_VERB, {"verb": call_again_verb(plan)})
        return {row_id for (row_ids,) in entries for row_id in json.loads(row_ids)}

    def retry_calls(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make parked inference calls due again, with the full number of attempts."""
        return self._change_calls("inference retry", sql.RETRY_CALLS, planned, context)

    def prune(self, planned: Sequence[PlannedRow], context: AuditContext, given_up: str = NONE_GIVEN_UP) -> list[int]:
        """Remove prunable rows, with their inference calls and their deduplication keys."""
        with transactions.write(self._engine) as connection:
            connection.execute(prune_sql.WAIT_FOR_LOCK.on(connection))
            return _write_audit(connection, "prune", context, prune.remove(connection, planned, given_up))

    def _change_under_shard_locks(
        self, verb: str, query: Statement, planned: Sequence[PlannedRow], context: AuditContext, **values: object
    ) -> list[int]:
        with transactions.write(self._engine) as connection:
            bound = _bind_planned(connection, planned)
            shards = connection.execute(sql.LOCK_SHARDS.on(connection), bound).scalars().all()
            values |= {**bound, "shards": bind_numbers(connection, shards)}
            changed = connection.execute(query.on(connection), values).scalars().all()
            return _write_audit(connection, verb, context, changed)

    def _change_calls(
        self, verb: str, query: Statement, planned: Sequence[PlannedRow], context: AuditContext
    ) -> list[int]:
        with transactions.write(self._engine) as connection:
            bound = _bind_planned(connection, planned)
            connection.execute(sql.LOCK_ROWS_FOR_SHARE.on(connection), bound)  # a call without its row would never end
            changed = connection.execute(query.on(connection), bound).scalars().all()
            return _write_audit(connection, verb, context, changed)

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


def _write_audit(connection: Connection, verb: str, context: AuditContext, changed: Sequence[int]) -> list[int]:
    """Write the audit entry of the changed rows, if there are any; return their ids in order."""
    ids = sorted(changed)
    if ids:
        audit.add(connection, verb, context, ids)
    return ids
