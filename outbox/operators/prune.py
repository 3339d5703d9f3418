"""Pruning: removing rows that were sent and whose inference call is done, and discarded rows. Nothing else.

A relay that reads its progress record back marks rows that are not marked yet. It needs no row that is marked already,
so sent rows need not be kept. The deduplication key is removed with its row.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.operators.rows import NONE_GIVEN_UP, PlannedRow
from outbox.progress import KAFKA_WENT_BACK_PREFIX
from outbox.sql import flow
from outbox.sql import prune as sql
from outbox.sql.statement import bind_numbers, bind_rows

PAGE_ROWS = 500


def old_rows(engine: Engine, age_ms: int) -> Iterator[list[PlannedRow]]:
    """Yield prunable rows that are older than this, a page at a time, oldest first; a page may be empty.

    Ends at the first row that was received since, for ids follow the time of receipt.
    """
    with transactions.read(engine) as connection:
        before = int(connection.execute(flow.NOW.on(connection)).scalar_one()) - age_ms
    values = {
        "before": before,
        "limit": PAGE_ROWS,
        "given_up": NONE_GIVEN_UP,
        "kafka_went_back": f"{KAFKA_WENT_BACK_PREFIX}%",
    }
    after, more = -1, True
    while more:
        with transactions.read(engine) as connection:
            page = connection.execute(sql.SELECT_OLD.on(connection), {**values, "after": after}).all()
        more = len(page) == PAGE_ROWS and all(row.old for row in page)
        yield [PlannedRow(row.id, row.nonce, row.changed_at_ms) for row in page if row.old and row.prunable]
        after = page[-1].id if page else after


def prune_rows(engine: Engine, rows: Sequence[PlannedRow]) -> int | None:
    """Remove rows of ``old_rows`` that have not changed since.

    Returns:
        The number of rows removed; None: another process is pruning.
    """
    with transactions.write(engine) as connection:
        locked = connection.execute(sql.TRY_LOCK.on(connection)).scalar_one()
        return len(remove(connection, rows, NONE_GIVEN_UP)) if locked else None


def remove(connection: Connection, rows: Sequence[PlannedRow], given_up: str) -> list[int]:
    """Remove prunable rows with their inference calls; return the ids of those removed. Needs the lock of pruning.

    Skips rows that another transaction has locked.
    """
    ids = bind_numbers(connection, (row.id for row in rows))
    locked = connection.execute(sql.LOCK_ROWS.on(connection), {"ids": ids}).scalars().all()
    values = {
        **bind_rows(connection, PlannedRow._fields, rows),
        "locked": bind_numbers(connection, locked),
        "given_up": given_up,
    }
    removed = sql.PRUNE.run(connection, values).scalars().all()
    connection.execute(sql.PRUNE_CALLS.on(connection), {"ids": bind_numbers(connection, removed)})
    return sorted(removed)
