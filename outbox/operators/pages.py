"""Pages of rows, calls and audit entries for a reader, the newest first; and what is parked, by error.

A page reads a bounded part of history. Where no index serves its filter it may be short, and says where to continue.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from outbox.backlog import MAX_COUNTED
from outbox.db import transactions
from outbox.models import INT64_MAX, RelayMember
from outbox.operators.audit import AuditEntry
from outbox.operators.rows import (
    WINDOW_IDS,
    ErrorGroup,
    FoundRow,
    RowFilter,
    RowFinder,
    call_conditions_of,
    conditions_of,
    group_errors,
    without_numbers,
)
from outbox.sql import audit as audit_sql
from outbox.sql import backlog as backlog_sql
from outbox.sql import flow
from outbox.sql import pages as sql
from outbox.sql import rows as rows_sql
from outbox.sql import shards as shard_sql
from outbox.sql.statement import Statement, bind_rows
from outbox.states import RowState

PAGE_ROWS = 50
MAX_WINDOWS = 2
"""Windows of ids that one page walks over where no index serves."""
MAX_PROBLEMS = 50
"""Errors whose waiting rows are counted."""


class RowPage(NamedTuple):
    """A page of rows, the newest first."""

    rows: list[FoundRow]
    before: int | None
    """The next page has the rows below this id; None: there are no more."""


class AuditPage(NamedTuple):
    """A page of audit entries, the newest first."""

    entries: list[AuditEntry]
    before: int | None
    """The next page has the entries below this id; None: there are no more."""


class Problem(NamedTuple):
    """Rows, or calls, that are parked with the same error."""

    group: ErrorGroup
    waiting: int
    """Pending rows behind them."""


class PageReader(RowFinder):
    """Reads pages from one outbox."""

    def rows(self, wanted: RowFilter, before: int = INT64_MAX) -> RowPage:
        """Return the newest rows below an id that a filter selects."""
        first, last = self.id_bounds(wanted)
        before = min(before, last + 1)
        state = RowState(wanted.state) if wanted.state else None
        if wanted.ids or wanted.interaction_id is not None or wanted.key is not None:
            return _page(self._few(wanted, first, before), None)
        if state in (None, RowState.SENT) and not (state is None and wanted.error is not None):
            conditions, values = conditions_of(wanted)
            query = sql.select_rows_down(rows_sql.all_of(conditions), state)
            return _walk(lambda bottom, top: self._read(query, values, bottom, top), first, before)
        states = [state] if state else [RowState.PARKED, RowState.DISCARDED]  # only these have an error
        scans = [self._of_shards(wanted, each, first, before) for each in states]
        return _page(heapq.merge(*scans, key=lambda row: -row.id), None)

    def like(self, row_id: int) -> RowFilter | None:
        """Return a filter for the rows of a row's interaction; None: the outbox does not have the row."""
        found = self.rows(RowFilter(ids=(row_id,))).rows
        return RowFilter(interaction_id=found[0].interaction_id) if found else None

    def of_same_customer(self, row_id: int, before: int = INT64_MAX) -> RowPage:
        """Return the newest rows below an id whose customer has the address of a row's customer."""
        found = self._query(sql.CUSTOMER, {"id": row_id})
        email = found[0].customer_email if found else None
        return RowPage([], None) if email is None else self.of_customer(email, before)

    def of_customer(self, email: str, before: int = INT64_MAX) -> RowPage:
        """Return the newest rows below an id whose customer has an address; the case of ASCII letters is ignored."""
        first, last = self.id_bounds(RowFilter())

        def read(bottom: int, before: int) -> list[FoundRow]:
            span = {"first": bottom, "before": before, "limit": PAGE_ROWS + 1, "email": email}
            ids = tuple(row.id for row in self._query(sql.IDS_OF_CUSTOMER, span))
            return list(self._few(RowFilter(ids=ids), bottom, before)) if ids else []

        return _walk(read, first, min(before, last + 1))

    def calls(self, wanted: RowFilter, before: int = INT64_MAX) -> RowPage:
        """Return the newest rows below an id whose inference call is parked, with the state and error of the call."""
        conditions, values = call_conditions_of(wanted)
        first, last = self.id_bounds(wanted)
        query = sql.select_parked_calls_down(rows_sql.all_of(conditions))
        return _page(self._read(query, values, first, min(before, last + 1)), None)

    def audit(self, before: int = INT64_MAX, limit: int = PAGE_ROWS) -> AuditPage:
        """Return the newest audit entries below an id."""
        found = self._query(audit_sql.ENTRIES_DOWN, {"before": before, "limit": limit + 1})
        entries = [AuditEntry._make(row) for row in found[:limit]]
        return AuditPage(entries, entries[-1].id if len(found) > limit else None)

    def problems(self, error: str | None = None) -> list[Problem]:
        """Group the parked rows by error, with the rows behind each; the largest group first.

        Args:
            error: part of the errors, case-insensitive; None: all.
        """
        conditions, values = conditions_of(RowFilter(error=error))
        found = self._query(rows_sql.group_by_error(rows_sql.all_of(conditions)), values)
        groups = group_errors(found)
        numbers = {group.error: number for number, group in enumerate(groups[:MAX_PROBLEMS])}
        named = [(each.error, numbers.get(without_numbers(each.error))) for each in found]
        waiting = self._count_behind([(text, number) for text, number in named if number is not None])
        return [Problem(group, waiting.get(number, 0)) for number, group in enumerate(groups)]

    def call_problems(self, error: str | None = None) -> list[Problem]:
        """Group the parked inference calls by error; nothing waits behind a parked call."""
        found = self._query(sql.PARKED_CALLS_BY_ERROR, {"error": error or ""})
        return [Problem(group, 0) for group in group_errors(found)]

    def relays(self) -> list[RelayMember]:
        """Return the relays, in the order in which they joined."""
        return [RelayMember(row.owner, bool(row.healthy), bool(row.live)) for row in self._query(shard_sql.MEMBERS, {})]

    def count_pending(self) -> int:
        """Count the pending rows, up to ``MAX_COUNTED``."""
        return int(self._query(backlog_sql.PENDING_UP_TO, {"limit": MAX_COUNTED})[0][0])

    def _count_behind(self, named: Sequence[tuple[str, int]]) -> dict[int, int]:
        if not named:
            return {}
        with transactions.read(self._engine) as connection:
            values = bind_rows(connection, ("error", "number"), named)
            found = connection.execute(sql.COUNT_BEHIND_ERRORS.on(connection), values)
            return {row.number: int(row.waiting) for row in found}

    def _few(self, wanted: RowFilter, first: int, before: int) -> Iterable[FoundRow]:
        conditions, values = conditions_of(wanted)
        if wanted.state:
            conditions, values = [*conditions, rows_sql.IN_STATE], {**values, "state": wanted.state}
        return self._read(sql.select_few_rows_down(rows_sql.all_of(conditions)), values, first, before)

    def _of_shards(self, wanted: RowFilter, state: RowState, first: int, before: int) -> Iterator[FoundRow]:
        """Scan the index of a state once for each shard, as there is none across shards."""
        conditions, values = conditions_of(wanted)
        query = sql.select_rows_down(rows_sql.all_of([*conditions, rows_sql.IN_SHARD]), state)
        shards = range(self._query(flow.IDENTITY, {})[0].shards)
        scans = [self._read(query, {**values, "shard": shard}, first, before) for shard in shards]
        return heapq.merge(*scans, key=lambda row: -row.id)

    def _read(self, query: Statement, values: dict[str, Any], first: int, before: int) -> list[FoundRow]:
        """Return the rows of a page, and one more if there is one."""
        span = {"first": first, "before": before, "limit": PAGE_ROWS + 1}
        return [FoundRow._make(row) for row in self._query(query, {**values, **span})]


def _walk(read: Callable[[int, int], list[FoundRow]], first: int, before: int) -> RowPage:
    """Walk down the ids, a window at a time, until the page is full or ``MAX_WINDOWS`` are read.

    Args:
        read: returns the rows above an id and below another, no more than a page and one more.
        first: all rows are above it.
        before: and below this.
    """
    found: list[FoundRow] = []
    for _ in range(MAX_WINDOWS):
        bottom = max(first, before - 1 - WINDOW_IDS)
        found += read(bottom, before)
        before = bottom + 1
        if len(found) > PAGE_ROWS or bottom <= first:
            break
    return _page(found, before if before > first + 1 else None)


def _page(found: Iterable[FoundRow], before: int | None) -> RowPage:
    """Return the first rows as a page.

    Args:
        found: the newest first.
        before: where the search ended, if it did not reach the end.
    """
    rows = list(islice(found, PAGE_ROWS + 1))
    return RowPage(rows[:PAGE_ROWS], rows[PAGE_ROWS - 1].id if len(rows) > PAGE_ROWS else before)
