"""Files with personal data, created with access for their owner only."""

import os
from contextlib import suppress
from pathlib import Path

OF_OTHERS = 0o077
"""Permission bits of the group and of others."""
SUFFIXES = ("", "-wal", "-shm", "-journal")
"""The database and the files that SQLite creates beside it, with its mode."""


def create_private(path: Path) -> None:
    """Create an empty file of mode 0600, whatever the umask is; an existing file is left alone.

    If that fails, opening the file will report why.
    """
    with suppress(OSError):
        os.close(os.open(path.resolve(), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def open_to_others(path: Path) -> dict[Path, int]:
    """Return the files of a SQLite database that others than the owner can access, with their modes."""
    modes = {}
    for suffix in SUFFIXES:
        with suppress(OSError):
            file = path.with_name(f"{path.name}{suffix}")
            modes[file] = file.stat().st_mode & 0o777
    return {file: mode for file, mode in modes.items() if mode & OF_OTHERS}
