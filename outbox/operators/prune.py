"""Removing rows whose way is over: sent with their inference call settled, or discarded. Nothing else.

The read-back needs no sent row: it marks rows that are not marked yet, and what is sent is marked. So no
row has to be kept for it. The key for deduplication goes with its row.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.models import INT64_MAX, PlannedRow
from outbox.sql import flow
from outbox.sql import operators as sql

PAGE_ROWS = 500
NONE_GIVEN_UP, PARKED_CALLS_GIVEN_UP = "done", "parked"
"""Inference calls that do not keep their row, besides those that are done."""


class Pruning:
    """Automatic pruning of one outbox.

    Args:
        engine: of the outbox.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def old_rows(self, age_ms: int) -> Iterator[list[PlannedRow]]:
        """Rows that were settled longer ago than this, a page at a time, oldest first; of some pages none is.

        The walk ends at the first row that was received since, for ids follow the time of receipt.
        """
        with transactions.read(self._engine) as connection:
            before = int(connection.execute(flow.NOW.on(connection)).scalar_one()) - age_ms
        after, old = -1, True
        while old:
            values = {"before": before, "after": after, "limit": PAGE_ROWS, "given_up": NONE_GIVEN_UP}
            with transactions.read(self._engine) as connection:
                page = connection.execute(sql.PRUNABLE.on(connection), values).all()
            old = len(page) == PAGE_ROWS and all(row.old for row in page)
            yield [PlannedRow._make(row[:3]) for row in page if row.old and row.prunable]
            after = page[-1].id if page else after

    def prune(self, rows: Sequence[PlannedRow]) -> int | None:
        """Remove rows of ``old_rows`` that still are what they were.

        Returns:
            How many; None if someone else is pruning.
        """
        with transactions.write(self._engine) as connection:
            alone = connection.execute(sql.TRY_PRUNING.on(connection)).scalar_one()
            return len(remove(connection, rows, NONE_GIVEN_UP)) if alone else None


def remove(connection: Connection, rows: Sequence[PlannedRow], given_up: str) -> list[int]:
    """Remove settled rows with their inference calls, where no one else prunes; ids of those removed.

    Rows that someone holds are left; those that were held are looked at again.
    """
    bound = sql.bind_planned(connection, rows)
    taken = list(connection.execute(sql.TAKE_ROWS.on(connection), bound).scalars())
    values = {"taken": flow.bind_list(connection, taken), "before": INT64_MAX, "given_up": given_up}
    gone = list(connection.execute(sql.PRUNE.on(connection), {**bound, **values}).scalars())
    connection.execute(sql.PRUNE_CALLS.on(connection), {"gone": flow.bind_list(connection, gone)})
    return sorted(gone)
