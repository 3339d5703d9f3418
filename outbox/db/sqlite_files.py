"""Whether the files of a SQLite database are still those that its connections have opened.

SQLite holds its files open: where they are deleted, moved or replaced by a restored copy, it goes on committing into
files that nobody finds again.
"""

import logging
import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from outbox.db.private_file import create_private
from outbox.errors import ConnectionLostError, DatabaseUnavailableError

log = logging.getLogger(__name__)

SUFFIXES = ("", "-wal", "-shm")
"""The database, its log of commits, and that log's index."""
CLOSED_SECONDS = 2.0
"""How long nothing is opened after a log has vanished: the last connection of all processes that is closed saves
the commits in it, and each process finds out within a second."""

SETTLED_SECONDS = 1.0
"""How long a file that was put in another one's place must not have changed before it is opened: it may still be
being copied, and the copy would overwrite what is committed into it."""

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
        self._opened: list[Identity] = []
        self._arriving: tuple[os.stat_result | None, float] = (None, 0.0)
        self._pin: Callable[[], object] | None = None

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
            raise DatabaseUnavailableError(
                f"DATABASE_URL names {self._path}, which does not exist: run relay migrate for a new outbox, or put "
                "the file back"
            )
        if before is not None and not self._may_create:
            self._insist_on_whole(replaced=bool(self._opened) and before != self._opened[0])
        if self._opened and before != self._opened[0]:
            self._set_logs_aside()
        if before is None:
            create_private(self._path)
        connection = connect(f"{self._path.as_uri()}?mode={'rw' if before else 'rwc'}")
        if before not in (None, _identity(self._names[0])):
            connection.close()
            raise DatabaseUnavailableError(f"{self._path} was replaced while it was opened")
        self._may_create = False
        return connection

    def watched(self) -> Callable[[], None]:
        """Raises ``ConnectionLostError`` once the files are not those of now any more; takes microseconds."""
        opened = [_identity(name) for name in self._names]
        if opened[:1] != self._opened[:1]:
            self._pin_file()
        self._opened = opened
        return partial(self._insist, opened)

    def _insist(self, opened: list[Identity]) -> None:
        for name, before in zip(self._names, opened, strict=True):
            if before is None or (now := _identity(name)) == before:
                continue
            if name != self._names[0] and not now:
                self._closed_until = monotonic() + CLOSED_SECONDS
            raise ConnectionLostError(f"{name} was {'replaced' if now else 'removed or moved'} while it was in use")

    def _insist_on_whole(self, *, replaced: bool) -> None:
        """Refuse a file that is empty, and one that has come in place of another and may not be all there yet."""
        found = os.stat(self._names[0])  # noqa: PTH116 - as _identity
        if not found.st_size:
            raise DatabaseUnavailableError(f"{self._path} is empty: put the whole database there, or remove it")
        if not replaced:
            return
        before, since = self._arriving
        if before is None or _version(before) != _version(found):
            before, since = self._arriving = found, monotonic()
        if monotonic() - since < SETTLED_SECONDS:
            raise DatabaseUnavailableError(
                f"{self._path} was replaced: it is opened once it has not changed for {SETTLED_SECONDS:.0f} s"
            )

    def _pin_file(self) -> None:
        """Keep the inode from being given to another file, which would look like this one."""
        if self._pin is not None:
            self._pin()
        # No reading, as closing such a descriptor would let go of SQLite's locks.
        self._pin = weakref.finalize(self, os.close, os.open(self._names[0], os.O_PATH)) if _CAN_PIN else None

    def _set_logs_aside(self) -> None:
        """Another database is at the path: the log of the one before would spoil it."""
        for name, opened in zip(self._names[1:], self._opened[1:], strict=True):
            if opened is not None and _identity(name) == opened:
                os.replace(name, f"{name}.replaced")  # noqa: PTH105 - as _identity
                log.warning(
                    "%s was replaced, so the log of the file before is renamed to %s.replaced", self._path, name
                )


_CAN_PIN = hasattr(os, "O_PATH")


def _identity(name: str) -> Identity:
    try:
        found = os.stat(name)  # noqa: PTH116 - a Path would cost more than the look
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _version(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
