"""What the sessions of a PostgreSQL database wait for, and how much they do."""

from collections import Counter
from typing import Any

import psycopg
from sqlalchemy import make_url

from testkit.background import BackgroundTask

INTERVAL_SECONDS = 0.02
MIN_SHARE = 0.01
"""Waits in a smaller share of the samples are not reported."""

_WAITS_SQL = """
    SELECT coalesce(wait_event_type || ' ' || wait_event, 'nothing (running)'), count(*)
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend' AND state = 'active'
    GROUP BY 1
"""
_COUNTERS_SQL = """
    SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS "writing transactions",
           d.deadlocks AS deadlocks,
           (SELECT CAST(coalesce(sum(n_tup_upd + n_tup_del), 0) AS bigint) FROM pg_stat_user_tables) AS "row changes"
    FROM pg_stat_database AS d WHERE d.datname = current_database()
"""
"""Transactions of the whole server. Reads are not counted, since the benchmark itself polls the outbox."""


def counters(url: str) -> dict[str, int]:
    """Return the server's activity counters for a database; empty on SQLite.

    A session reports once a second and when it ends, so stop the relays before the last call.
    """
    if not _is_postgresql(url):
        return {}
    with _connect(url) as connection:
        cursor = connection.execute(_COUNTERS_SQL)
        (row,) = cursor.fetchall()
        return {column.name: int(value) for column, value in zip(cursor.description or (), row, strict=True)}


class WaitSampler(BackgroundTask):
    """Samples what the active sessions of a database wait for within the block; does nothing on SQLite."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.counts: Counter[str] = Counter()

    def _run(self) -> None:
        if not _is_postgresql(self._url):
            return
        with _connect(self._url) as connection:
            while not self._stop.wait(INTERVAL_SECONDS):
                self.counts.update(dict(connection.execute(_WAITS_SQL).fetchall()))


def _is_postgresql(url: str) -> bool:
    return make_url(url).get_backend_name() == "postgresql"


def _connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def shares(counts: Counter[str]) -> dict[str, float]:
    """Return each wait's share of the samples, the largest first."""
    total = counts.total()
    return {name: round(count / total, 2) for name, count in counts.most_common() if count >= total * MIN_SHARE}
