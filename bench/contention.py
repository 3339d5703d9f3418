"""What PostgreSQL's sessions of one database wait for, and how much they do, while a block runs."""

import threading
from collections import Counter
from typing import Any, Self

import psycopg
from sqlalchemy import make_url

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
    SELECT d.xact_commit AS transactions, d.xact_rollback AS "rolled back", d.deadlocks AS deadlocks,
           t.scans AS "index scans", t.fetched AS "index entries read", t.updated AS "row updates"
    FROM pg_stat_database AS d,
         (SELECT CAST(sum(idx_scan) AS bigint) AS scans, CAST(sum(idx_tup_fetch) AS bigint) AS fetched,
                 CAST(sum(n_tup_upd) AS bigint) AS updated FROM pg_stat_user_tables) AS t
    WHERE d.datname = current_database()
"""


class Contention:
    """Samples who waits for what (``waits``), and counts what was done (``done``); nothing on SQLite.

    A session tells the counters once a second, or when it ends: end the relays before ``done`` is read.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        found = make_url(url)
        self._known = found.get_backend_name() == "postgresql"
        self._url = found.set(drivername="postgresql").render_as_string(hide_password=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._before = self._counters()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def done(self) -> dict[str, int]:
        """Counts since the block began."""
        return {name: value - self._before[name] for name, value in self._counters().items()}

    def _counters(self) -> dict[str, Any]:
        if not self._known:
            return {}
        with psycopg.connect(self._url) as connection:
            cursor = connection.execute(_DONE)
            (row,) = cursor.fetchall()
            return {column.name: value for column, value in zip(cursor.description or (), row, strict=True)}

    def _watch(self) -> None:
        if not self._known:
            return
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(EVERY_SECONDS):
                self.waits.update(dict(connection.execute(_ACTIVE).fetchall()))


def shares(waits: Counter[str]) -> dict[str, float]:
    """What share of the active sessions' samples each wait has, the largest first."""
    total = waits.total()
    return {name: round(seen / total, 2) for name, seen in waits.most_common() if seen >= total * SMALLEST_SHARE}
