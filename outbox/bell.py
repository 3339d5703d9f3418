"""Telling the relay at once that rows were committed, so that it need not look all the time.

A bell that is not heard costs a moment, never a row: relays look by themselves, too. PostgreSQL carries
notifications; SQLite tells a kept connection whether others have committed.
"""

import contextlib
from collections.abc import Iterable, Sequence
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from outbox import statements as sql
from outbox import transactions
from outbox.errors import DatabaseUnavailableError, OutboxError
from outbox.hashing import interaction_hash

EVERY_SHARD = range(99)
"""SQLite does not tell which; more than 99 there never are."""
PROBE_SECONDS = (0.001, 0.016)
"""First and longest pause between two looks at SQLite's counter of commits."""


def ring(engine: Engine, interactions: Iterable[str]) -> None:
    """Tell listening relays which shards have new rows, after their commit; never fails.

    A transaction of its own: a notification in the commit of the rows would hold a lock of the whole
    server while that commit waits for the disk.
    """
    if engine.dialect.name == "postgresql":
        hashes = ",".join({str(interaction_hash(interaction)) for interaction in interactions})
        with contextlib.suppress(OutboxError), transactions.driver(engine) as driver:
            driver.execute(sql.RING, (f"{{{hashes}}}",))


class Bell:
    """What a relay hears; to be used from one thread.

    Args:
        engine: of the outbox.

    Attributes:
        heard: whether the bell is known to work. Behind a transaction pooler it never does.
    """

    def __init__(self, engine: Engine) -> None:
        self.heard = False
        self._engine = engine
        self._connection: Any = None
        self._version: int | None = None

    def wait(self, seconds: float) -> Sequence[int]:
        """Shards that have new rows, as soon as there are some; none after this time.

        Raises:
            DatabaseUnavailableError: the next call connects anew.
        """
        try:
            if self._engine.dialect.name == "postgresql":
                return self._notified(seconds)
            return self._changed(seconds)
        except Exception as error:  # noqa: BLE001 - the driver is used without SQLAlchemy's wrapper
            self.close()
            raise DatabaseUnavailableError(f"the database cannot be listened to: {type(error).__name__}") from None

    def close(self) -> None:
        """Give the connection up."""
        self.heard, self._version = False, None
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.invalidate()
            self._connection = None

    def _notified(self, seconds: float) -> Sequence[int]:
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            self._driver().execute(sql.LISTEN)
            self._driver().execute(sql.RING, ("{}",))  # heard by itself, if it works
        shards: set[int] = set()
        for notification in self._driver().notifies(timeout=seconds, stop_after=1):
            self.heard = True
            shards.update(map(int, notification.payload.split()))
        return sorted(shards)

    def _changed(self, seconds: float) -> Sequence[int]:
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            self.heard = True
        deadline, pause = monotonic() + seconds, PROBE_SECONDS[0]
        while True:
            ((version,),) = self._driver().execute("PRAGMA data_version").fetchall()
            if version != self._version:
                self._version = version
                return EVERY_SHARD
            if monotonic() >= deadline:
                return ()
            sleep(pause)
            pause = min(pause * 2, PROBE_SECONDS[1])

    def _driver(self) -> Any:
        return self._connection.driver_connection
