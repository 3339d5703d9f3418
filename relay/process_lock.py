"""Who this relay process is, and how another one on the same host sees that it is dead.

The process holds an OS lock on a file named by its owner id for as long as it lives; the kernel
lets go of it at any death. So after a crash and restart on one host no lease has to run out.
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
    """This process as an owner of shards; the id is never used again.

    Where no file can be made and locked (a read-only file system) it does without: then its leases have to run out.
    """

    def __init__(self) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
        self._file: IO[str] | None = None
        try:
            path = _lock_path(self.id)
            with suppress(FileExistsError):
                path.parent.mkdir(mode=0o700)
            _insist_on_private(path.parent)
            self._file = _open(path, os.O_CREAT | os.O_EXCL)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()  # a file that nobody holds would say that this owner is dead
            log.warning(
                "no lock file (%s), or set TMPDIR to a folder that can be written to: after a crash the next relay "
                "waits for the lease", error.strerror or error, action="no_lock_file",
            )  # fmt: skip

    def close(self) -> None:
        """Let go: to be called when no shard is owned any more."""
        if self._file is not None:
            with suppress(OSError):
                _lock_path(self.id).unlink(missing_ok=True)
            self._file.close()


def is_dead(owner: str) -> bool:
    """Whether the owner ran on this host and its process is gone; False whenever that is not certain."""
    if owner.split(":", 1)[0] != socket.gethostname():
        return False
    try:
        path = _lock_path(owner)
        _insist_on_private(path.parent)
        with _open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # no such file (another container by the same name), or locked: it lives
        return False


def _insist_on_private(folder: Path) -> None:
    """Everybody may write to the folder above: whoever was there first could keep, remove and replace lock files.

    Raises:
        PermissionError: somebody else could.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, f"{folder} is not a folder of this user alone: remove it")


def _open(path: Path, flags: int = 0) -> IO[str]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600), "r+")


def _lock_path(owner: str) -> Path:
    return Path(tempfile.gettempdir()) / f"cxone-outbox-relay-{os.getuid()}" / f"{owner.replace('/', '_')}.lock"
