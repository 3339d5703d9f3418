"""Files that hold personal data, made for their owner alone before anybody writes to them."""

import os
from contextlib import suppress
from pathlib import Path

OF_OTHERS = 0o077
"""Rights of the group and of everybody else."""
BESIDE = ("", "-wal", "-shm", "-journal")
"""What SQLite makes beside its file, with the mode that the file has."""


def create_private(path: Path) -> None:
    """Make an empty file of mode 0600, whatever the umask is; one that is there stays as it is.

    What keeps it from being made is left to whoever opens it next.
    """
    with suppress(OSError):
        os.close(os.open(path.resolve(), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def open_to_others(path: Path) -> dict[Path, int]:
    """Those of a SQLite database's files that somebody besides the owner has rights on, with their modes."""
    modes = {}
    for suffix in BESIDE:
        with suppress(OSError):
            file = path.with_name(f"{path.name}{suffix}")
            modes[file] = file.stat().st_mode & 0o777
    return {file: mode for file, mode in modes.items() if mode & OF_OTHERS}
