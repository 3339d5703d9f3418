"""Who this relay process is, and how another one on the same host sees that it is dead.

The process holds an OS lock on a file named by its owner id for as long as it lives; the kernel
lets go of it at any death. So after a crash and restart on one host no lease has to run out.
"""

import fcntl
import os
import secrets
import socket
import tempfile
from pathlib import Path

_FOLDER = Path(tempfile.gettempdir()) / f"cxone-outbox-relay-{os.getuid()}"


class Owner:
    """This process as an owner of shards; the id is never used again."""

    def __init__(self) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        self._file = _lock_path(self.id).open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Let go: to be called when no shard is owned any more."""
        _lock_path(self.id).unlink(missing_ok=True)
        self._file.close()


def is_dead(owner: str) -> bool:
    """Whether the owner ran on this host and its process is gone; False whenever that is not certain."""
    if owner.split(":", 1)[0] != socket.gethostname():
        return False
    try:
        with _lock_path(owner).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # no such file (another container by the same name), or locked: it lives
        return False


def _lock_path(owner: str) -> Path:
    return _FOLDER / f"{owner.replace('/', '_')}.lock"
