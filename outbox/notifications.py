"""Notifies relays of committed rows, so that they need not poll all the time.

A lost notification costs time, never a row: relays also poll. PostgreSQL has LISTEN and NOTIFY; on SQLite a kept
connection shows whether others have committed.
"""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from math import inf
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import SQLAlchemyError

from outbox.db import transactions
from outbox.db.engine import MAX_AGE_SECONDS, require_files
from outbox.errors import ConnectionLostError, DatabaseUnavailableError, OutboxError
from outbox.partitioner import interaction_hash
from outbox.sql import insert as sql

log = logging.getLogger(__name__)

EVERY_SHARD = range(99)
"""SQLite does not show which shards have rows; there are never more than 99."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.001, 0.016
"""Pause between two reads of SQLite's counter of commits."""
PING_INTERVAL_SECONDS = 1.0
SELF_TEST_TIMEOUT_SECONDS = 5.0
"""How long a listener waits for its own notification; without it, there is a pooler in between."""
RETRY_SECONDS = 60.0
"""How long a listener behind a pooler waits before it listens again."""
WARNING_INTERVAL_SECONDS = 60.0


def notify(engine: Engine, interactions: Iterable[str]) -> None:
    """Notify relays of new rows of these interactions, after their commit; never fails.

    Uses a separate transaction: a notification in the transaction of the rows would hold a server-wide lock while the
    commit waits for the disk.
    """
    if engine.dialect.name == "postgresql":
        hashes = ",".join({str(interaction_hash(interaction)) for interaction in interactions})
        with contextlib.suppress(OutboxError), transactions.driver(engine) as driver:
            driver.execute(sql.NOTIFY, (f"{{{hashes}}}",))


class Listener:
    """Waits for notifications; for use in one thread.

    Behind a pooler it does not listen: its session would be given to others, and still listen.

    Args:
        self_test_timeout_seconds: how long to wait for the listener's own notification.

    Attributes:
        is_working: whether notifications are known to arrive; always False behind a pooler.
    """

    def __init__(self, engine: Engine, self_test_timeout_seconds: float = SELF_TEST_TIMEOUT_SECONDS) -> None:
        self.is_working = False
        self._engine, self._self_test_timeout = engine, self_test_timeout_seconds
        self._connection: PoolProxiedConnection | None = None
        self._connected_at = self._pinged_at = 0.0
        self._retry_at = 0.0
        self._data_version: int | None = None
        self._invalid, self._warned_at = 0, float("-inf")

    def wait(self, seconds: float) -> Sequence[int]:
        """Return the shards that have new rows, as soon as there are some; none after this time.

        Raises:
            DatabaseUnavailableError: the next call opens a new connection.
        """
        if self._connection is not None and monotonic() - self._connected_at > MAX_AGE_SECONDS:
            self.close()  # the network may have dropped it silently
        try:
            with transactions.translate_errors(self._engine):
                if self._engine.dialect.name == "postgresql":
                    return self._wait_postgresql(seconds)
                return self._wait_sqlite(seconds)
        except OutboxError:
            self.close()
            raise
        except Exception as error:  # noqa: BLE001 - the listening thread must survive any error
            self.close()
            raise DatabaseUnavailableError(f"cannot listen for notifications: {type(error).__name__}") from None

    def close(self) -> None:
        """Close the connection."""
        self.is_working, self._data_version = False, None
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.invalidate()
            self._connection = None

    def _wait_postgresql(self, seconds: float) -> Sequence[int]:
        if self._connection is None and not self._listen():
            sleep(seconds)
            return ()
        self._ping()
        shards: set[int] = set()
        for notification in self._driver().notifies(timeout=seconds, stop_after=1):
            self.is_working = True
            shards.update(self._parse_shards(notification))
        if not self.is_working and monotonic() - self._connected_at > self._self_test_timeout:
            self._driver().execute(sql.UNLISTEN)
            self._retry_at = monotonic() + RETRY_SECONDS
            self.close()
        return sorted(shards)

    def _ping(self) -> None:
        """Ping the server once a second: a session that only listens is idle, and may be dropped silently."""
        if monotonic() - self._pinged_at >= PING_INTERVAL_SECONDS:
            if not self._driver().is_usable(inf):
                raise ConnectionLostError("the listening connection was lost")
            self._pinged_at = monotonic()

    def _listen(self) -> bool:
        """Listen on a new connection; return False behind a pooler."""
        if monotonic() < self._retry_at:
            return False
        connection = self._engine.raw_connection()
        driver: Any = connection.driver_connection
        if not driver.is_direct():
            connection.close()
            self._retry_at = monotonic() + RETRY_SECONDS
            return False
        self._connection, self._connected_at = connection, monotonic()
        self._pinged_at = self._connected_at
        driver.keep_notifications()
        driver.execute(sql.LISTEN)
        driver.execute(sql.NOTIFY, ("{}",))  # arrives here, if notifications work
        return True

    def _parse_shards(self, notification: Any) -> Iterable[int]:
        """Return the shards in a notification; any role of the database may send any text."""
        try:
            return [int(part) for part in notification.payload.split()]
        except ValueError:
            self._invalid += 1
            if monotonic() - self._warned_at > WARNING_INTERVAL_SECONDS:
                log.warning(
                    "ignored %d notification(s) on the channel outbox_rows that do not name shards, the latest from "
                    "the server process %d: another role of this database sends them",
                    self._invalid,
                    notification.pid,
                    extra={"action": "notifications_ignored"},
                )
                self._invalid, self._warned_at = 0, monotonic()
            return ()

    def _wait_sqlite(self, seconds: float) -> Sequence[int]:
        if self._connection is None:
            self._connection, self._connected_at = self._engine.raw_connection(), monotonic()
            self.is_working = True
        deadline, pause = monotonic() + seconds, FIRST_PAUSE_SECONDS
        while True:
            require_files(self._connection.info)
            ((version,),) = self._driver().execute("PRAGMA data_version").fetchall()
            if version != self._data_version:
                self._data_version = version
                return EVERY_SHARD
            if monotonic() >= deadline:
                return ()
            sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    def _driver(self) -> Any:
        return self._connection.driver_connection if self._connection else None
