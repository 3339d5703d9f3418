"""The verbs of operators: find rows, plan a change, change exactly the planned rows; each change goes on record.

A plan names rows by id, tag and the moment of their last change by hand. A change takes a chunk of it in one
transaction, under the locks that it needs, so it is safe while relays run; what changed since the plan is left
alone. Its audit entry is written in the same transaction.
"""

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.models import (
    ERASED_PAYLOAD,
    AuditContext,
    AuditEntry,
    ErrorGroup,
    FoundRow,
    PlannedRow,
    RowFilter,
    new_nonce,
)
from outbox.operators import audit, erase, prune
from outbox.operators.audit import ChainReport
from outbox.partitioner import interaction_hash
from outbox.sql import flow
from outbox.sql import operators as sql
from outbox.states import RowState

FIRST_PAGE_ROWS, PAGE_ROWS = 50, 1000
"""Somebody waits for the first rows."""
WINDOW_IDS = 50_000
"""Ids that one statement walks over where no index serves: a statement may not take long."""
BODY_WINDOW_IDS = 5_000
"""The same where each body is gone through."""
SLACK_MS = 60_000
"""By how much the order of ids may differ from the order of receipt: ids are handed out before commits."""
COUNTED_IDS = 10_000


class EntrySpan(NamedTuple):
    """The audit entries of one verb."""

    first: int
    last: int
    """Ids; others may be between them."""
    at_ms: int
    """When the last one was written."""


class Operations:
    """What operators do to one outbox.

    Args:
        engine: of the outbox.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # Finding ---------------------------------------------------------------------------------------

    def find(self, wanted: RowFilter) -> Iterator[FoundRow]:
        """Every row that the filter names, of those there are now; in id order, a page at a time."""
        return self._find(wanted)

    def replayable(self, wanted: RowFilter, plan: str) -> Iterator[FoundRow]:
        """As ``find``, without rows that the plan has replayed or made."""
        return self._find(wanted, ["not replayed by the plan"], prefix=_prefix(plan))

    def replayed(self, wanted: RowFilter, plan: str) -> Iterator[FoundRow]:
        """As ``find``, those that the plan has replayed."""
        return self._find(wanted, ["replayed by the plan"], prefix=_prefix(plan))

    def prunable(self, wanted: RowFilter, given_up: str = prune.NONE_GIVEN_UP) -> Iterator[FoundRow]:
        """As ``find``, those that may be pruned: sent with their call settled, or discarded."""
        return self._find(wanted, ["settled"], given_up=given_up)

    def erasable(self, wanted: RowFilter) -> Iterator[FoundRow]:
        """As ``find``, those that hold a person's data."""
        if wanted.email is None:
            return self._find(wanted, ["holds a person's data"])
        wanted = replace(wanted, email=erase.folded(wanted.email))
        return erase.holding(self._engine, self._find(wanted, ["holds a person's data"]), wanted.email or "")

    def parked_calls(self, wanted: RowFilter) -> Iterator[FoundRow]:
        """Rows whose inference call is parked, with the state and the error of the call."""
        names, values = _conditions(replace(wanted, state=None))
        names = ["error of the call" if name == "error" else name for name in names]
        return self._pages(sql.with_conditions(sql.PARKED_CALLS, names), values, [self._bounds(wanted)])

    def count_behind(self, wanted: RowFilter) -> int:
        """How many pending rows wait behind the parked ones that the filter names."""
        names, values = _conditions(replace(wanted, state=RowState.PARKED.value))
        return int(self._ask(sql.with_conditions(sql.BEHIND, names), values)[0][0])

    def count_replayed(self, rows: Sequence[PlannedRow]) -> int:
        """How many of these rows were replayed before, by any plan."""
        with transactions.read(self._engine) as connection:
            bound = sql.bind_planned(connection, rows)
            return int(connection.execute(sql.REPLAYED_BEFORE.on(connection), bound).scalar_one())

    def count_with_address(self, rows: Sequence[PlannedRow]) -> Counter[str]:
        """How many of these rows hold a customer's address, by state."""
        with transactions.read(self._engine) as connection:
            bound = sql.bind_planned(connection, rows)
            return Counter({row.state: row.rows for row in connection.execute(sql.WITH_ADDRESS.on(connection), bound)})

    def parked_by_error(self, wanted: RowFilter) -> list[ErrorGroup]:
        """Parked rows that the filter names, grouped by what their errors share; the largest group first."""
        names, values = _conditions(replace(wanted, state=RowState.PARKED.value))
        groups: dict[str, list[Any]] = defaultdict(list)
        for found in self._ask(sql.with_conditions(sql.PARKED_ERRORS, names), values):
            groups[re.sub(r"\d+", "#", found.error)].append(found)
        made = []
        for error, parts in groups.items():
            oldest = min(part.oldest for part in parts)
            made.append(ErrorGroup(error, sum(part.rows for part in parts), oldest, max(0, parts[0].now - oldest)))
        return sorted(made, key=lambda group: -group.rows)

    def _find(self, wanted: RowFilter, further: Sequence[str] = (), **values: Any) -> Iterator[FoundRow]:
        names, given = _conditions(wanted)
        values, names = {**given, **values}, [*names, *further]
        span = self._bounds(wanted)
        query = sql.with_conditions(sql.ROWS, names)
        if wanted.ids or wanted.interaction_id is not None:
            return self._pages(query, values, [span])
        if wanted.state in (RowState.PENDING, RowState.PARKED, RowState.DISCARDED):
            # One walk along each shard's partial index, for there is none across shards.
            query = sql.with_conditions(sql.ROWS, [*names, "shard"])
            shards = range(self._ask(flow.IDENTITY, {})[0].shards)
            walks = (self._pages(query, {**values, "shard": shard}, [span]) for shard in shards)
            return heapq.merge(*walks, key=lambda row: row.id)
        first, last = span
        step = WINDOW_IDS if wanted.email is None else BODY_WINDOW_IDS
        windows = ((start, min(start + step, last)) for start in range(first, last, step))
        return self._pages(query, values, windows)

    def _pages(
        self,
        query: flow.Statement,
        values: dict[str, Any],
        spans: Sequence[tuple[int, int]] | Iterator[tuple[int, int]],
    ) -> Iterator[FoundRow]:
        limit = FIRST_PAGE_ROWS
        for first, last in spans:
            after = first
            while after < last:
                span = {"after": after, "last": last, "limit": limit}
                page = [FoundRow._make(row) for row in self._ask(query, {**values, **span})]
                yield from page
                after = page[-1].id if len(page) == limit else last
                limit = PAGE_ROWS

    def _bounds(self, wanted: RowFilter) -> tuple[int, int]:
        """Ids between which every row of the filter is: above the first, up to the second. Found by bisection."""
        with transactions.read(self._engine) as connection:
            first, last = connection.execute(sql.ID_BOUNDS.on(connection)).one()
            low, high = first, last
            if wanted.since_ms is not None:
                low = _first_from(connection, wanted.since_ms - SLACK_MS, first, last)
            if wanted.until_ms is not None:
                high = _first_from(connection, wanted.until_ms + SLACK_MS, first, last)
        return low - 1, high

    def _ask(self, query: flow.Statement, values: dict[str, Any]) -> Sequence[Any]:
        with transactions.read(self._engine) as connection:
            if "ids" in values:
                values = {**values, "ids": flow.bind_list(connection, list(values["ids"]))}
            return connection.execute(query.on(connection), values).all()

    # Changing: each takes a chunk of a plan, and returns the ids of the rows that were changed --------------

    def retry(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make parked rows pending again: they are sent before what waits behind them."""
        return self._change_under_shard_locks("retry", sql.RETRY, planned, context)

    def discard(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Decide that parked rows are not sent: what waits behind them goes on."""
        return self._change_under_shard_locks("discard", sql.DISCARD, planned, context)

    def erase(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Remove the customer's address and the body from rows in any state; the rest stays, and is still sent."""
        return self._change_under_shard_locks("erase", sql.ERASE, planned, context, erased=ERASED_PAYLOAD)

    def replay(
        self, plan: str, planned: Sequence[PlannedRow], context: AuditContext, topic: str | None = None
    ) -> list[int]:
        """Send rows again that are sent or discarded: as new rows, in the old order, marked ``replay_of``.

        Args:
            plan: names this replay; a row is replayed once by a plan, however often it is given.
            planned: in id order.
            order: who, and why.
            topic: where they go instead of the usual topic.
        """
        with transactions.write(self._engine) as connection:
            bound = sql.bind_planned(connection, planned)
            held = {row.id: row.interaction_id for row in connection.execute(sql.HOLD_ROWS.on(connection), bound)}
            new = [(p.id, p.nonce, new_nonce(), interaction_hash(held[p.id])) for p in planned if p.id in held]
            if not new:
                return []
            if connection.dialect.name == "postgresql":
                columns = map(list, zip(*new, strict=True))
                values: dict[str, object] = dict(zip(("ids", "nonces", "new_tags", "hashes"), columns, strict=True))
            else:
                values = {"rows": json.dumps(new)}
            values |= {"prefix": _prefix(plan), "topic": topic}
            replayed = connection.execute(sql.REPLAY.on(connection), values).scalars()
            return _on_record(connection, replay_verb(plan), context, replayed.all())

    def call_again(self, plan: str, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make the inference calls of sent rows due again; nothing is sent to Kafka."""
        return self._change_calls(call_again_verb(plan), sql.CALL_AGAIN, planned, context)

    def called_again(self, plan: str) -> set[int]:
        """Rows whose call this plan has made due again."""
        found = self._ask(sql.CALLED_AGAIN, {"verb": call_again_verb(plan)})
        return {row_id for (row_ids,) in found for row_id in json.loads(row_ids)}

    def retry_calls(self, planned: Sequence[PlannedRow], context: AuditContext) -> list[int]:
        """Make parked inference calls due again, with all their attempts before them."""
        return self._change_calls("inference retry", sql.RETRY_CALLS, planned, context)

    def prune(
        self, planned: Sequence[PlannedRow], context: AuditContext, given_up: str = prune.NONE_GIVEN_UP
    ) -> list[int]:
        """Remove settled rows, their calls and their keys."""
        with transactions.write(self._engine) as connection:
            connection.execute(sql.AWAIT_PRUNING.on(connection))
            return _on_record(connection, "prune", context, prune.remove(connection, planned, given_up))

    def _change_under_shard_locks(
        self, verb: str, query: flow.Statement, planned: Sequence[PlannedRow], context: AuditContext, **values: object
    ) -> list[int]:
        with transactions.write(self._engine) as connection:
            bound = sql.bind_planned(connection, planned)
            shards = list(connection.execute(sql.LOCK_SHARDS.on(connection), bound).scalars())
            values |= {**bound, "shards": flow.bind_list(connection, shards)}
            changed = connection.execute(query.on(connection), values).scalars()
            return _on_record(connection, verb, context, changed.all())

    def _change_calls(
        self, verb: str, query: flow.Statement, planned: Sequence[PlannedRow], context: AuditContext
    ) -> list[int]:
        with transactions.write(self._engine) as connection:
            bound = sql.bind_planned(connection, planned)
            connection.execute(sql.HOLD_ROWS.on(connection), bound)  # a call without its row would never end
            return _on_record(
                connection, verb, context, connection.execute(query.on(connection), bound).scalars().all()
            )

    # The record ------------------------------------------------------------------------------------

    def audit(self, row_id: int | None = None) -> Iterator[AuditEntry]:
        """Every entry, or every one that concerns a row; oldest first."""
        return audit.entries(self._engine, row_id)

    def entries_of(self, verb: str) -> EntrySpan | None:
        """Which audit entries are of this verb; None if there is none."""
        ((first, last, at_ms),) = self._ask(sql.AUDIT_SPAN, {"verb": verb})
        return None if first is None else EntrySpan(first, last, at_ms)

    def verify(self, head: str | None = None) -> ChainReport:
        """Whether the record is whole; ``head``: a hash noted earlier, which must still be in it."""
        return audit.verify(self._engine, head)


def _first_from(connection: Connection, at_ms: int, low: int, high: int) -> int:
    """The first id received at this moment or later, as far as ids follow time; ``high`` if there is none."""
    query = sql.RECEIVED_FROM.on(connection)
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(query, {"id": middle}).one_or_none()
        if found is None or found.received_at >= at_ms:
            high = middle
        else:
            low = found.id + 1
    return low


def replay_verb(plan: str) -> str:
    """How the audit names it."""
    return f"replay {plan}"


def call_again_verb(plan: str) -> str:
    """How the audit names it."""
    return f"replay {plan} --inference-only"


def _prefix(plan: str) -> str:
    return f"replay:{plan}:"


def _conditions(wanted: RowFilter) -> tuple[list[str], dict[str, Any]]:
    given = {name: value for name, value in asdict(wanted).items() if value not in (None, ())}
    state = given.pop("state", None)
    return [*given, *([f"state {state}"] if state else [])], given


def _on_record(connection: Connection, verb: str, context: AuditContext, changed: Sequence[int]) -> list[int]:
    ids = sorted(changed)
    if ids:
        audit.add(connection, verb, context, ids)
    return ids
