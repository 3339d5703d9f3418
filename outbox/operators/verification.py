"""What a verification reads of the outbox: the rows received in a range of time, and what became of them."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.models import PendingRow, StoredVerdict
from outbox.operators.format import format_time, plural
from outbox.operators.rows import RowFilter, RowFinder
from outbox.sql import flow
from outbox.sql import rows as rows_sql
from outbox.sql import verification as sql
from outbox.sql.statement import Statement, bind_numbers

WINDOW_IDS = 20_000
"""Ids that one statement reads."""
LOOKUP_IDS = 5_000
"""Ids that one statement looks up."""


class ComparedRow(NamedTuple):
    """A row as far as its record is compared with it."""

    id: int
    interaction_id: str
    received_at_ms: int
    topic: str | None
    """The topic of a replay; None: the configured topic."""
    sent_at_ms: int | None
    """None: it is not marked sent."""


class RowIdentity(NamedTuple):
    """What must match for a record to be that of a row: a restored database assigns ids again."""

    id: int
    interaction_id: str
    received_at_ms: int
    topic: str | None


class RowNow(NamedTuple):
    """The present state of a row."""

    id: int
    state: str | None
    """None: it is in none, as no statement of the product leaves it."""
    sent_at_ms: int | None


class RowSent(NamedTuple):
    """When a row was received, and which transaction sent it."""

    id: int
    received_at_ms: int
    shard: int | None
    """None: it is not marked sent."""
    sequence: int | None
    """Of the shard's Kafka transaction; None: it is not marked sent."""


class OutboxReader:
    """Reads rows for a verification, a bounded number at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def commits_by_id(self) -> bool:
        """Whether a row is visible before those with higher ids: PostgreSQL hands ids out before commits."""
        return self._engine.dialect.name == "sqlite"

    def now_ms(self) -> int:
        """Return the time of the database's clock."""
        with transactions.read(self._engine) as connection:
            return int(connection.execute(flow.NOW.on(connection)).scalar_one())

    def id_bounds(self, since_ms: int, until_ms: int) -> tuple[int, int]:
        """Return the ids above which and up to which all rows are that were received in a range of time."""
        return RowFinder(self._engine).id_bounds(RowFilter(since_ms=since_ms, until_ms=until_ms))

    def first_row(self) -> tuple[int, int] | None:
        """Return id and time of receipt of the oldest row; None: the outbox is empty."""
        with transactions.read(self._engine) as connection:
            found = connection.execute(rows_sql.FIRST_FROM.on(connection), {"id": 0}).one_or_none()
        return (found.id, found.received_at) if found else None

    def rows(self, bounds: tuple[int, int], since_ms: int, until_ms: int) -> Iterator[list[ComparedRow]]:
        """Yield the rows that were received in a range of time, one list for each range of ids, which may be empty.

        A thread reads the next list meanwhile: PostgreSQL takes as long to find the rows as a caller to use them.

        Args:
            bounds: from ``id_bounds``.
            since_ms: the first time.
            until_ms: the end, not included.
        """
        first, end = bounds
        spans = ((after, min(after + WINDOW_IDS, end)) for after in range(first, end, WINDOW_IDS))
        with ThreadPoolExecutor(1) as reader:
            ahead: deque[Future[list[ComparedRow]]] = deque()
            for span in spans:
                ahead.append(reader.submit(self._window, span, since_ms, until_ms))
                if len(ahead) > 1:
                    yield ahead.popleft().result()
            yield from (future.result() for future in ahead)

    def _window(self, span: tuple[int, int], since_ms: int, until_ms: int) -> list[ComparedRow]:
        values = {"after": span[0], "last": span[1], "since": since_ms, "until": until_ms}
        with transactions.read(self._engine) as connection:
            found = transactions.tuples(connection.execute(sql.ROWS.on(connection), values))
        return list(map(ComparedRow._make, found))

    def values(self, ids: Iterable[int]) -> Iterator[PendingRow]:
        """Yield what the records of these rows contain, as far as there are rows."""
        return (PendingRow(*row) for row in self._look_up(sql.VALUES_BY_ID, ids))

    def identities(self, ids: Iterable[int]) -> dict[int, RowIdentity]:
        """Return what identifies the rows with these ids, as far as there are rows."""
        return {row[0]: RowIdentity._make(row) for row in self._look_up(sql.BY_ID, ids)}

    def states(self, ids: Iterable[int]) -> list[RowNow]:
        """Return the present states of rows; those that were pruned are left out."""
        return list(map(RowNow._make, self._look_up(sql.STATES, ids)))

    def sent(self, ids: Iterable[int]) -> list[RowSent]:
        """Return whether and how these rows were sent, as far as there are rows."""
        return list(map(RowSent._make, self._look_up(sql.SENT, ids)))

    def received_before(self, ids: Iterable[int], moment_ms: int) -> set[int]:
        """Return those of these rows that were received before a time."""
        return {row[0] for row in self._look_up(sql.RECEIVED_BEFORE, ids, moment_ms=moment_ms)}

    def erased(self, ids: Iterable[int]) -> set[int]:
        """Return those of these rows whose personal data was erased."""
        return {row[0] for row in self._look_up(sql.ERASED, ids)}

    def same_interaction(
        self, ids: Iterable[int], bounds: tuple[int, int], topic: str, configured: str
    ) -> dict[str, list[int]]:
        """Return the rows that are of the interactions of some rows, by interaction.

        Args:
            ids: of those rows.
            bounds: the first and the last id of the rows that are returned.
            topic: that they were sent to.
            configured: the topic of rows that name none.
        """
        found: dict[str, list[int]] = defaultdict(list)
        first, last = bounds
        for interaction_id, row_id in set(
            self._look_up(sql.SAME_INTERACTION, ids, first=first, last=last, topic=topic, configured=configured)
        ):
            found[interaction_id].append(row_id)
        return found

    def audited(self, ids: Iterable[int], verbs: Collection[str]) -> set[int]:
        """Return those of these rows for which the audit has an entry whose verb begins with one of these words."""
        beginnings = tuple(verbs)
        return {row[0] for row in self._look_up(sql.AUDITED, ids) if row[1].startswith(beginnings)}

    def _look_up(self, query: Statement, ids: Iterable[int], **values: int | str) -> Iterator[tuple[Any, ...]]:
        wanted = list(ids)
        for start in range(0, len(wanted), LOOKUP_IDS):
            with transactions.read(self._engine) as connection:
                bound = {"ids": bind_numbers(connection, wanted[start : start + LOOKUP_IDS]), **values}
                found = transactions.tuples(connection.execute(query.on(connection), bound))
            yield from found


def format_stored(verdict: StoredVerdict) -> str:
    """Say what a verification found, in which rows, and when."""
    found = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in verdict.faults.items()) or "no fault"
    span = f"received from {format_time(verdict.since_ms)} until {format_time(verdict.until_ms)}"
    with_values = ", with values" if verdict.values else ""
    return f"{found} in {plural(verdict.rows, 'row')} {span}{with_values}, verified {format_time(verdict.at_ms)}"
