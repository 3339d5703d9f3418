"""Traps: of several processes, the first that reaches a named step kills itself (-9)."""

import os
import signal
from pathlib import Path

FOLDER = "TRAPS_FOLDER"
"""Environment variable with the folder that holds the traps, a file for each occurrence that is left."""


class Traps:
    """The traps in a folder, which several processes share.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def from_environ(cls) -> "Traps":
        """The traps in the folder that the environment names."""
        return cls(Path(os.environ[FOLDER]))

    def set(self, step: str, occurrence: int = 1) -> None:
        """Kill the process that reaches the step for this time from now on, counted over all processes."""
        for number in range(occurrence, 0, -1):  # the deadly one last: the others may be reached meanwhile
            (self._folder / f"{step}.{number}").touch()

    def victim(self, step: str) -> int | None:
        """Return the id of the process that has reached the step and dies, once; None if none has."""
        for path in self._folder.glob(f"{step}-*"):
            path.unlink()
            return int(path.name.rpartition("-")[2])
        return None

    def is_deadly(self, step: str) -> bool:
        """Count an occurrence of the step; whether it is the one to die at."""
        for path in sorted(self._folder.glob(f"{step}.*"), reverse=True):
            is_last = path.suffix == ".1"
            try:
                path.rename(self._folder / f"{step}-{os.getpid()}") if is_last else path.unlink()
            except FileNotFoundError:  # another process was first
                continue
            return is_last
        return False

    def reach(self, step: str) -> None:
        """Count an occurrence of the step, and die if it is the one to die at."""
        if self.is_deadly(step):
            die()


def die() -> None:
    """Kill this process (-9)."""
    os.kill(os.getpid(), signal.SIGKILL)
