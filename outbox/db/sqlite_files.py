"""Checks that the files of a SQLite database are still those that its connections have opened.

SQLite keeps its files open: if they are deleted, moved or replaced by a restored copy, it would continue to commit into
files that nobody can find again.
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
from outbox.errors import MIGRATE, ConnectionLostError, DatabaseUnavailableError

log = logging.getLogger(__name__)

SUFFIXES = ("", "-wal", "-shm")
"""The database, its write-ahead log, and the index of that log."""
CLOSED_SECONDS = 2.0
"""How long no connection is opened after a log has vanished. The last connection that any process closes saves the
commits in the log, and each process notices within a second."""

UNCHANGED_SECONDS = 1.0
"""How long a replaced file must not change before it is opened: an unfinished copy would overwrite commits."""

FileId = tuple[int, int] | None
"""Device and inode; None: there is no such file."""


class SqliteFiles:
    """The files of one database, for the connections of one engine.

    Args:
        may_create: whether the first connection may create the file.
    """

    def __init__(self, path: Path, *, may_create: bool) -> None:
        self._path, self._may_create = path, may_create
        self._names = [f"{path}{suffix}" for suffix in SUFFIXES]
        self._closed_until = 0.0
        self._opened: list[FileId] = []
        self._arriving: tuple[tuple[int, ...] | None, float] = (None, 0.0)
        """What a file that replaced another was last seen as, and since when."""
        self._pin: Callable[[], object] | None = None

    def open(self, connect: Callable[[str], Any]) -> Any:
        """Open a connection to the current file.

        Args:
            connect: opens a connection by its URI.

        Raises:
            DatabaseUnavailableError: there is no file, or it must not be opened now.
        """
        if monotonic() < self._closed_until:
            raise DatabaseUnavailableError(
                f"{self._path}: the log was removed; the database is opened again in a moment"
            )
        found = _stat(self._names[0])
        before = _file_id(found)
        replaced = bool(self._opened) and before != self._opened[0]
        if before is None and not self._may_create:
            raise DatabaseUnavailableError(
                f"DATABASE_URL names {self._path}, which does not exist: run {MIGRATE} for a new outbox, or put the "
                "file back"
            )
        if found is not None and not self._may_create:
            self._require_complete(found, replaced=replaced)
        if replaced:
            self._set_logs_aside()
        if before is None:
            create_private(self._path)
        connection = connect(f"{self._path.as_uri()}?mode={'rw' if before else 'rwc'}")
        if before not in (None, _identity(self._names[0])):
            connection.close()
            raise DatabaseUnavailableError(f"{self._path} was replaced while it was being opened")
        self._may_create = False
        return connection

    def watch(self) -> Callable[[], None]:
        """Return a check that raises ``ConnectionLostError`` if the files are no longer the current ones.

        The check takes microseconds.
        """
        opened = [_identity(name) for name in self._names]
        if opened[:1] != self._opened[:1]:
            self._pin_file()
        self._opened = opened
        return partial(self._require_same, opened)

    def _require_same(self, opened: list[FileId]) -> None:
        for name, before in zip(self._names, opened, strict=True):
            if before is None or (now := _identity(name)) == before:
                continue
            if name != self._names[0] and not now:
                self._closed_until = monotonic() + CLOSED_SECONDS
            raise ConnectionLostError(f"{name} was {'replaced' if now else 'removed or moved'} while it was in use")

    def _require_complete(self, found: os.stat_result, *, replaced: bool) -> None:
        """Refuse an empty file, and a replaced file that may still be being copied."""
        if not found.st_size:
            raise DatabaseUnavailableError(f"{self._path} is empty: put a complete database there, or remove the file")
        if not replaced:
            return
        version = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        if version != self._arriving[0]:
            self._arriving = version, monotonic()
        if monotonic() - self._arriving[1] < UNCHANGED_SECONDS:
            raise DatabaseUnavailableError(
                f"{self._path} was replaced: it is opened after it has not changed for {UNCHANGED_SECONDS:.0f} s"
            )

    def _pin_file(self) -> None:
        """Keep the inode from being reused for another file, which would look the same."""
        if self._pin is not None:
            self._pin()
        # O_PATH: closing a readable descriptor would release SQLite's locks.
        self._pin = weakref.finalize(self, os.close, os.open(self._names[0], os.O_PATH)) if _CAN_PIN else None

    def _set_logs_aside(self) -> None:
        """Rename the logs of a database that was replaced: they would corrupt the new one."""
        for name, opened in zip(self._names[1:], self._opened[1:], strict=True):
            if opened is not None and _identity(name) == opened:
                os.replace(name, f"{name}.replaced")  # noqa: PTH105 - as _identity
                log.warning(
                    "%s was replaced; renamed the log of the earlier file to %s.replaced",
                    self._path,
                    name,
                    extra={"action": "log_set_aside"},
                )


_CAN_PIN = hasattr(os, "O_PATH")


def _identity(name: str) -> FileId:
    return _file_id(_stat(name))


def _file_id(found: os.stat_result | None) -> FileId:
    return None if found is None else (found.st_dev, found.st_ino)


def _stat(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)  # noqa: PTH116 - a Path would take longer than the call
    except OSError:
        return None
