"""What PostgreSQL's sessions of one database wait for, and how much they do."""

from collections import Counter
from typing import Any

import psycopg
from sqlalchemy import make_url

from bench.sampling import Sampler

EVERY_SECONDS = 0.02
SMALLEST_SHARE = 0.01
"""Of the samples: what is seen less often is not told."""

_ACTIVE = """
    SELECT coalesce(wait_event_type || ' ' || wait_event, 'none: it works'), count(*)
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend' AND state = 'active'
    GROUP BY 1
"""
_DONE = """
    SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS "writing transactions",
           d.deadlocks AS deadlocks,
           (SELECT CAST(coalesce(sum(n_tup_upd), 0) AS bigint) FROM pg_stat_user_tables) AS "row updates"
    FROM pg_stat_database AS d WHERE d.datname = current_database()
"""
"""Reads are not counted: the bench itself looks at the outbox again and again. Transactions are the server's."""


def counters(url: str) -> dict[str, int]:
    """What was done in a database so far; nothing on SQLite.

    A session tells it once a second, or when it ends: end the relays before the last look.
    """
    if not _is_postgresql(url):
        return {}
    with _connect(url) as connection:
        cursor = connection.execute(_DONE)
        (row,) = cursor.fetchall()
        return {column.name: int(value) for column, value in zip(cursor.description or (), row, strict=True)}


class Waits(Sampler):
    """Samples what the active sessions of a database wait for, while the block runs; nothing on SQLite.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.seen: Counter[str] = Counter()

    def _watch(self) -> None:
        if not _is_postgresql(self._url):
            return
        with _connect(self._url) as connection:
            while not self._stop.wait(EVERY_SECONDS):
                self.seen.update(dict(connection.execute(_ACTIVE).fetchall()))


def _is_postgresql(url: str) -> bool:
    return make_url(url).get_backend_name() == "postgresql"


def _connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def shares(seen: Counter[str]) -> dict[str, float]:
    """What share of the active sessions' samples each wait has, the largest first."""
    total = seen.total()
    return {name: round(times / total, 2) for name, times in seen.most_common() if times >= total * SMALLEST_SHARE}
