"""Whether each row has exactly one state: its id is in one of the tables of pending, sent and parked rows."""

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.models import INT64_MAX
from outbox.sql import placement as sql
from outbox.sql.reshard import RAISE_TIMEOUTS
from outbox.sql.rows import ID_BOUNDS

WINDOW_IDS = 50_000


def misplaced_ids(engine: Engine, newest: int) -> list[int]:
    """Return the ids, in order, that are in none of the tables or in two, or whose entry does not fit its row.

    Such a row would be lost or sent twice. Every statement moves an id as a whole, so there is none unless the tables
    were changed by hand or restored one by one.

    Args:
        newest: how many of the newest ids to check; pending and parked rows are checked whatever their age.
    """
    found: set[int] = set()
    with transactions.read(engine) as connection:
        connection.execute(RAISE_TIMEOUTS.on(connection))
        first, last = connection.execute(ID_BOUNDS.on(connection)).one()
        found.update(connection.execute(sql.UNKNOWN_UNSENT.on(connection)).scalars())
        for after in range(max(first - 1, last - newest), last, WINDOW_IDS):
            span = {"after": after, "last": min(after + WINDOW_IDS, last)}
            for query in (sql.MISPLACED, sql.UNKNOWN_SENT):
                found.update(connection.execute(query.on(connection), span).scalars())
        above = {"after": last, "last": INT64_MAX}  # an id that a new row will get
        found.update(connection.execute(sql.UNKNOWN_SENT.on(connection), above).scalars())
    return sorted(found)
