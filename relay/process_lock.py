"""The identity of this relay process, and how another process on the same host sees that it is dead.

The process locks a file that is named by its owner id for as long as it lives; the kernel releases the lock however
it dies. So after a crash and restart on the same host no lease has to expire.
"""

import errno
import fcntl
import os
import secrets
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import structlog

log = structlog.get_logger(__name__)


class ProcessLock:
    """This process as an owner of shards. Its ``owner_id`` is never used again.

    Where no file can be created and locked, as on a read-only file system, its leases have to expire after a crash.
    """

    def __init__(self) -> None:
        self.owner_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
        self._file: IO[str] | None = None
        try:
            path = _lock_path(self.owner_id)
            with suppress(FileExistsError):
                path.parent.mkdir(mode=0o700)
            _ensure_private(path.parent)
            self._file = _open(path, os.O_CREAT | os.O_EXCL)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()  # an unlocked file would mean that this owner is dead
            log.warning(
                "no lock file (%s): after a crash the next relay waits until the lease expires; set TMPDIR to a "
                "writable directory", error.strerror or error, action="no_lock_file",
            )  # fmt: skip

    def close(self) -> None:
        """Release the lock, once this process owns no shard."""
        if self._file is not None:
            with suppress(OSError):
                _lock_path(self.owner_id).unlink(missing_ok=True)
            self._file.close()


def is_dead(owner: str) -> bool:
    """Whether the owner ran on this host and its process has ended; False if that is not certain."""
    if owner.split(":", 1)[0] != socket.gethostname():
        return False
    try:
        path = _lock_path(owner)
        _ensure_private(path.parent)
        with _open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # no such file (a container with the same host name), or locked by a live process
        return False


def _ensure_private(directory: Path) -> None:
    """Check that no other user can create, remove or replace lock files: the parent directory is writable by all.

    Raises:
        PermissionError: another user can.
    """
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, f"{directory} is not a directory of this user alone: remove it")


def _open(path: Path, flags: int = 0) -> IO[str]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600), "r+")


def _lock_path(owner: str) -> Path:
    return Path(tempfile.gettempdir()) / f"cxone-outbox-relay-{os.getuid()}" / f"{owner.replace('/', '_')}.lock"
