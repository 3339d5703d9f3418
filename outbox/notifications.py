"""Telling the relay at once that rows were committed, so that it need not look all the time.

A bell that is not heard costs a moment, never a row: relays look by themselves, too. PostgreSQL carries
notifications; SQLite tells a kept connection whether others have committed.
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
from outbox.db.engine import MAX_AGE_SECONDS, insist_on_files
from outbox.errors import ConnectionLostError, DatabaseUnavailableError, OutboxError
from outbox.partitioner import interaction_hash
from outbox.sql import flow as sql

log = logging.getLogger(__name__)

EVERY_SHARD = range(99)
"""SQLite does not tell which; more than 99 there never are."""
PROBE_SECONDS = (0.001, 0.016)
"""First and longest pause between two looks at SQLite's counter of commits."""
ASK_SECONDS = 1.0
WORKING_SECONDS = 5.0
"""How long a listener has to hear itself; else a pooler is in between, and it listens no more."""
DEAF_SECONDS = 60.0
"""How long it is not tried again then."""
WARN_SECONDS = 60.0
"""Between two warnings of notifications that are not ours."""


def notify(engine: Engine, interactions: Iterable[str]) -> None:
    """Tell listening relays which shards have new rows, after their commit; never fails.

    A transaction of its own: a notification in the commit of the rows would hold a lock of the whole
    server while that commit waits for the disk.
    """
    if engine.dialect.name == "postgresql":
        hashes = ",".join({str(interaction_hash(interaction)) for interaction in interactions})
        with contextlib.suppress(OutboxError), transactions.driver(engine) as driver:
            driver.execute(sql.NOTIFY, (f"{{{hashes}}}",))


class Listener:
    """What a relay hears; to be used from one thread.

    Behind a pooler it does not listen: the pooler's sessions serve others, too, and would go on listening for nobody.

    Args:
        engine: of the outbox.

    Attributes:
        heard: whether the bell is known to work. Behind a pooler it never does.
    """

    def __init__(self, engine: Engine) -> None:
        self.is_working = False
        self._engine = engine
        self._connection: PoolProxiedConnection | None = None
        self._since = self._asked = 0.0
        self._deaf_until = 0.0
        self._version: int | None = None
        self._rubbish, self._warned = 0, float("-inf")

    def wait(self, seconds: float) -> Sequence[int]:
        """Shards that have new rows, as soon as there are some; none after this time.

        Raises:
            DatabaseUnavailableError: the next call connects anew.
        """
        if self._connection is not None and monotonic() - self._since > MAX_AGE_SECONDS:
            self.close()  # it may have been dropped silently, and is tested anew
        try:
            with transactions.translated(self._engine):
                if self._engine.dialect.name == "postgresql":
                    return self._notified(seconds)
                return self._changed(seconds)
        except OutboxError:
            self.close()
            raise
        except Exception as error:  # noqa: BLE001 - who listens must outlive whatever happens
            self.close()
            raise DatabaseUnavailableError(f"the database cannot be listened to: {type(error).__name__}") from None

    def close(self) -> None:
        """Give the connection up."""
        self.is_working, self._version = False, None
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.invalidate()
            self._connection = None

    def _notified(self, seconds: float) -> Sequence[int]:
        if self._connection is None and not self._listen():
            sleep(seconds)
            return ()
        self._ask()
        shards: set[int] = set()
        for notification in self._driver().notifies(timeout=seconds, stop_after=1):
            self.is_working = True
            shards.update(self._shards(notification))
        if not self.is_working and monotonic() - self._since > WORKING_SECONDS:
            self._driver().execute(sql.UNLISTEN)
            self._deaf_until = monotonic() + DEAF_SECONDS
            self.close()
        return sorted(shards)

    def _ask(self) -> None:
        """Once a second: a session that only listens is idle, and a link may have dropped it without a word."""
        if monotonic() - self._asked >= ASK_SECONDS:
            if not self._driver().serves(inf):
                raise ConnectionLostError("the connection that listens is gone")
            self._asked = monotonic()

    def _listen(self) -> bool:
        """Whether it listens now, on a connection of its own."""
        if monotonic() < self._deaf_until:
            return False
        connection = self._engine.raw_connection()
        driver: Any = connection.driver_connection
        if not driver.is_direct():
            connection.close()
            self._deaf_until = monotonic() + DEAF_SECONDS
            return False
        self._connection, self._since = connection, monotonic()
        self._asked = self._since
        driver.keep_notifications()
        driver.execute(sql.LISTEN)
        driver.execute(sql.NOTIFY, ("{}",))  # heard by itself, if it works
        return True

    def _shards(self, notification: Any) -> Iterable[int]:
        """The shards that it names; any role of the database may notify, whatever it likes."""
        try:
            return [int(part) for part in notification.payload.split()]
        except ValueError:
            self._rubbish += 1
            if monotonic() - self._warned > WARN_SECONDS:
                log.warning(
                    "%d notification(s) on the channel outbox_rows do not name shards and are ignored, the latest by "
                    "the server process %d: some role of this database sends them",
                    self._rubbish,
                    notification.pid,
                )
                self._rubbish, self._warned = 0, monotonic()
            return ()

    def _changed(self, seconds: float) -> Sequence[int]:
        if self._connection is None:
            self._connection, self._since = self._engine.raw_connection(), monotonic()
            self.is_working = True
        deadline, pause = monotonic() + seconds, PROBE_SECONDS[0]
        while True:
            insist_on_files(self._connection.info)
            ((version,),) = self._driver().execute("PRAGMA data_version").fetchall()
            if version != self._version:
                self._version = version
                return EVERY_SHARD
            if monotonic() >= deadline:
                return ()
            sleep(pause)
            pause = min(pause * 2, PROBE_SECONDS[1])

    def _driver(self) -> Any:
        return self._connection.driver_connection if self._connection else None
