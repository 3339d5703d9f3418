"""Finding rows for operators.

A filter selects rows in one of three ways, by what the indexes offer: by id, interaction or key, with one scan; by a
state other than ``sent``, with one scan of its table for each shard; otherwise by walking over all ids, a window at a
time.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.models import INT64_MAX, RowRef
from outbox.operators import email_match
from outbox.sql import flow
from outbox.sql import rows as sql
from outbox.sql.rows import Condition
from outbox.sql.statement import Statement, bind_numbers
from outbox.states import RowState

FIRST_PAGE_ROWS, PAGE_ROWS = 50, 1000
"""The first page is short, so that it appears at once."""
WINDOW_IDS = 50_000
"""Ids that one statement walks over where no index serves: no statement may take long."""
BODY_WINDOW_IDS = 5_000
"""The same where the statement reads each body."""
PAGE_BODIES = 100
"""Bodies read at a time; each may have a mebibyte."""
SLACK_MS = 60_000
"""By how much the order of ids may differ from the order of receipt: ids are assigned before commits."""
MAX_COUNTED_ROWS = 10_000
"""Rows that one count takes."""
NONE_GIVEN_UP, PARKED_CALLS_GIVEN_UP = "done", "parked"
"""State of inference calls that do not keep their row from being pruned, besides ``done``."""


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Selects rows that meet all conditions; without conditions, every row."""

    ids: tuple[int, ...] = ()
    interaction_id: str | None = None
    state: str | None = None
    """A ``RowState``."""
    key: bytes | None = None
    """The deduplication key; ``outbox.models.chosen_key`` makes it of an ``Idempotency-Key``."""
    channel: str | None = None
    error: str | None = None
    """Part of the row's error, case-insensitive."""
    since_ms: int | None = None
    """Received at this time or later, in milliseconds since the epoch."""
    until_ms: int | None = None
    """Received before this time."""
    email: str | None = None
    """The customer's address, or one anywhere in the body; only for ``Operations.erasable``."""


def parse_row_id(typed: str) -> int | None:
    """Return an outbox id written ``4711`` or ``#4711``; None: it is none."""
    digits = typed.removeprefix("#")
    if not re.fullmatch(r"[0-9]{1,19}", digits) or not 1 <= int(digits) <= INT64_MAX:
        return None
    return int(digits)


class PlannedRow(NamedTuple):
    """A row as it was when it was planned. A row that was parked or discarded since no longer matches."""

    id: int
    nonce: int
    changed_at_ms: int
    """When it was parked or discarded; 0: it is neither."""


class FoundRow(NamedTuple):
    """A row as operators see it, without its content."""

    id: int
    nonce: int
    shard: int
    state: str
    interaction_id: str
    channel: str
    received_at_ms: int
    sent_at_ms: int | None
    replay_of: int | None
    error: str | None
    topic: str | None
    """The topic of a replay; None: the configured topic."""
    changed_at_ms: int
    """When it was parked or discarded; 0: it is neither."""

    @property
    def ref(self) -> RowRef:
        """Id and nonce."""
        return RowRef(self.id, self.nonce)

    @property
    def planned(self) -> PlannedRow:
        """The row as it is now."""
        return PlannedRow(self.id, self.nonce, self.changed_at_ms)


class ErrorGroup(NamedTuple):
    """Parked rows whose errors look the same."""

    error: str
    """The error, with ``#`` in place of numbers."""
    rows: int
    oldest_at_ms: int
    """When the first of them was parked."""
    age_ms: int
    """Time since then, by the database's clock."""


class RowFinder:
    """Finds rows in one outbox, of those there are when the search begins."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, wanted: RowFilter) -> Iterator[FoundRow]:
        """Yield the rows that a filter selects, in id order, reading a page at a time."""
        return self._find(wanted)

    def replayable(self, wanted: RowFilter, plan: str) -> Iterator[FoundRow]:
        """Yield the rows that the named plan has neither replayed nor made."""
        return self._find(wanted, sql.NOT_REPLAYED_BY_PLAN, plan=plan)

    def replayed(self, wanted: RowFilter, plan: str) -> Iterator[FoundRow]:
        """Yield the rows that the named plan has replayed."""
        return self._find(wanted, sql.REPLAYED_BY_PLAN, plan=plan)

    def prunable(self, wanted: RowFilter, given_up: str = NONE_GIVEN_UP) -> Iterator[FoundRow]:
        """Yield the rows that may be pruned: discarded ones, and sent ones whose inference call is done.

        Args:
            wanted: selects the rows.
            given_up: ``PARKED_CALLS_GIVEN_UP`` includes rows whose call is parked.
        """
        return self._find(wanted, sql.PRUNABLE, given_up=given_up)

    def erasable(self, wanted: RowFilter) -> Iterator[FoundRow]:
        """Yield the rows that contain personal data."""
        if wanted.email is None:
            return self._find(wanted, sql.HAS_PERSONAL_DATA)
        email = email_match.fold(wanted.email)
        return self._about(email, self._find(replace(wanted, email=email), sql.HAS_PERSONAL_DATA))

    def parked_calls(self, wanted: RowFilter) -> Iterator[FoundRow]:
        """Yield the rows whose inference call is parked, with the state and the error of the call."""
        conditions, values = call_conditions_of(wanted)
        query = sql.select_parked_calls(sql.all_of(conditions))
        return self._pages(query, values, [self.id_bounds(wanted)])

    def count_blocked(self, wanted: RowFilter) -> int:
        """Count the pending rows that wait behind the parked rows that a filter selects."""
        conditions, values = conditions_of(wanted)
        return int(self._query(sql.count_blocked(sql.all_of(conditions)), values)[0][0])

    def count_replayed(self, rows: Sequence[PlannedRow]) -> int:
        """Count the rows that were replayed before, by any plan."""
        return int(self._query(sql.COUNT_REPLAYED, {"ids": [row.id for row in rows]})[0][0])

    def count_with_address(self, rows: Sequence[PlannedRow]) -> Counter[str]:
        """Count the rows that have a customer's address, by state."""
        found = self._query(sql.COUNT_WITH_ADDRESS, {"ids": [row.id for row in rows]})
        return Counter({row.state: row.rows for row in found})

    def parked_by_error(self, wanted: RowFilter) -> list[ErrorGroup]:
        """Group the parked rows that a filter selects by their errors without numbers; the largest group first."""
        conditions, values = conditions_of(wanted)
        return group_errors(self._query(sql.group_by_error(sql.all_of(conditions)), values))

    def id_bounds(self, wanted: RowFilter) -> tuple[int, int]:
        """Return the ids above which and up to which all rows of a filter are, found by bisection on the time."""
        with transactions.read(self._engine) as connection:
            first, last = connection.execute(sql.ID_BOUNDS.on(connection)).one()
            low, high = first, last
            if wanted.since_ms is not None:
                low = _first_received_from(connection, wanted.since_ms - SLACK_MS, first, last)
            if wanted.until_ms is not None:
                high = _first_received_from(connection, wanted.until_ms + SLACK_MS, first, last)
        return low - 1, high

    def _find(self, wanted: RowFilter, *further: Condition, **further_values: Any) -> Iterator[FoundRow]:
        conditions, values = conditions_of(wanted)
        conditions, values = [*conditions, *further], {**values, **further_values}
        state = RowState(wanted.state) if wanted.state else None
        by_index = bool(wanted.ids) or wanted.interaction_id is not None or wanted.key is not None
        if state is None and wanted.error is not None and not by_index:  # only these have an error
            states = (replace(wanted, state=only.value) for only in (RowState.PARKED, RowState.DISCARDED))
            return heapq.merge(*(self._find(one, *further, **further_values) for one in states), key=lambda row: row.id)
        bounds = self.id_bounds(wanted)
        if by_index:
            if state:
                conditions, values = [*conditions, sql.IN_STATE], {**values, "state": state.value}
            return self._pages(sql.select_rows(sql.all_of(conditions)), values, [bounds])
        if state not in (None, RowState.SENT):
            query = sql.select_rows(sql.all_of([*conditions, sql.IN_SHARD]), state)
            return self._find_by_shard(query, values, bounds)
        query = sql.select_rows(sql.all_of(conditions), state)
        step = WINDOW_IDS if wanted.email is None else BODY_WINDOW_IDS
        first, last = bounds
        windows = ((start, min(start + step, last)) for start in range(first, last, step))
        return self._pages(query, values, windows)

    def _about(self, email: str, rows: Iterator[FoundRow]) -> Iterator[FoundRow]:
        """Yield the rows whose customer has the address, or whose body contains it anywhere."""
        while page := list(islice(rows, PAGE_BODIES)):
            contents = self._query(sql.CONTENTS, {"ids": [row.id for row in page]})
            found = {row.id for row in contents if email_match.contains(email, row.customer_email, bytes(row.payload))}
            yield from (row for row in page if row.id in found)

    def _find_by_shard(self, query: Statement, values: dict[str, Any], bounds: tuple[int, int]) -> Iterator[FoundRow]:
        """Scan the index of a state once for each shard, as there is none across shards."""
        shards = range(self._query(flow.IDENTITY, {})[0].shards)
        scans = (self._pages(query, {**values, "shard": shard}, [bounds]) for shard in shards)
        return heapq.merge(*scans, key=lambda row: row.id)

    def _pages(
        self, query: Statement, values: dict[str, Any], windows: Iterable[tuple[int, int]]
    ) -> Iterator[FoundRow]:
        limit = FIRST_PAGE_ROWS
        for first, last in windows:
            after = first
            while after < last:
                span = {"after": after, "last": last, "limit": limit}
                page = [FoundRow._make(row) for row in self._query(query, {**values, **span})]
                yield from page
                after = page[-1].id if len(page) == limit else last
                limit = PAGE_ROWS

    def _query(self, query: Statement, values: dict[str, Any]) -> Sequence[Any]:
        with transactions.read(self._engine) as connection:
            if "ids" in values:
                values = {**values, "ids": bind_numbers(connection, values["ids"])}
            return connection.execute(query.on(connection), values).all()


def group_errors(found: Sequence[Any]) -> list[ErrorGroup]:
    """Group errors that differ only in numbers; the largest group first.

    Args:
        found: for each error how often it was found, since when, and the time now.
    """
    errors: dict[str, list[Any]] = defaultdict(list)
    for each in found:
        errors[without_numbers(each.error)].append(each)
    groups = []
    for error, parts in errors.items():
        oldest = min(part.oldest for part in parts)
        groups.append(ErrorGroup(error, sum(part.rows for part in parts), oldest, max(0, parts[0].now - oldest)))
    return sorted(groups, key=lambda group: -group.rows)


def without_numbers(error: str) -> str:
    """Return an error with ``#`` in place of numbers, which differ from row to row."""
    return re.sub(r"\d+", "#", error)


def conditions_of(wanted: RowFilter) -> tuple[list[Condition], dict[str, Any]]:
    """Return a filter's conditions, except that on the state, and the values that they bind."""
    values = {name: value for name, value in asdict(wanted).items() if name != "state" and value not in (None, ())}
    return [sql.FILTERS[name] for name in values], values


def call_conditions_of(wanted: RowFilter) -> tuple[list[Condition], dict[str, Any]]:
    """Return the same for parked inference calls, whose error is that of the call."""
    conditions, values = conditions_of(replace(wanted, error=None))
    if wanted.error is None:
        return conditions, values
    return [*conditions, sql.CALL_ERROR], {**values, "error": wanted.error}


def _first_received_from(connection: Connection, at_ms: int, low: int, high: int) -> int:
    """Return the first id received at this time or later, as far as ids follow time; ``high`` if there is none."""
    query = sql.FIRST_FROM.on(connection)
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(query, {"id": middle}).one_or_none()
        if found is None or found.received_at >= at_ms:
            high = middle
        else:
            low = found.id + 1
    return low
