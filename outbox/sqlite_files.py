"""Whether the files of a SQLite database are still those that its connections have opened.

SQLite holds its files open: where they are deleted, moved or replaced by a restored copy, it goes on committing into
files that nobody finds again.
"""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from outbox.errors import ConnectionLostError, DatabaseUnavailableError

log = logging.getLogger(__name__)

SUFFIXES = ("", "-wal", "-shm")
"""The database, its log of commits, and that log's index."""
CLOSED_SECONDS = 2.0
"""How long nothing is opened after a log has vanished: the last connection of all processes that is closed saves
the commits in it, and each process finds out within a second."""

Identity = tuple[int, int] | None
"""Device and inode; None: there is no such file."""


class SqliteFiles:
    """The files of one database, for the connections of one engine.

    Args:
        path: of the database.
        may_create: whether the first connection may make the file.
    """

    def __init__(self, path: Path, *, may_create: bool) -> None:
        self._path, self._may_create = path, may_create
        self._names = [f"{path}{suffix}" for suffix in SUFFIXES]
        self._closed_until = 0.0

    def open(self, connect: Callable[[str], Any]) -> Any:
        """A connection to the file that is there now.

        Args:
            connect: opens a connection by its URI.

        Raises:
            DatabaseUnavailableError: there is no file, or it must not be opened now.
        """
        if monotonic() < self._closed_until:
            raise DatabaseUnavailableError(f"{self._path} is opened again in a moment: its log was removed")
        before = _identity(self._names[0])
        if before is None and not self._may_create:
            raise DatabaseUnavailableError(f"DATABASE_URL names {self._path}, which does not exist: put it back")
        connection = connect(f"{self._path.as_uri()}?mode={'rw' if before else 'rwc'}")
        if before not in (None, _identity(self._names[0])):
            connection.close()
            raise DatabaseUnavailableError(f"{self._path} was replaced while it was opened")
        self._may_create = False
        return connection

    def watched(self) -> Callable[[], None]:
        """Raises ``ConnectionLostError`` once the files are not those of now any more; takes microseconds."""
        return partial(self._insist, [_identity(name) for name in self._names])

    def _insist(self, opened: list[Identity]) -> None:
        for name, before in zip(self._names, opened, strict=True):
            if before is None or (now := _identity(name)) == before:
                continue
            if name != self._names[0] and not now:
                self._closed_until = monotonic() + CLOSED_SECONDS
            raise ConnectionLostError(f"{name} was {'replaced' if now else 'removed or moved'} while it was in use")


def _identity(name: str) -> Identity:
    try:
        found = os.stat(name)  # noqa: PTH116 - a Path would cost more than the look
    except OSError:
        return None
    return found.st_dev, found.st_ino
