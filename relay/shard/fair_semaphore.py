"""The shards of a process take turns, so that rows gather for those that wait.

Many shards with a transaction each at every moment would keep every part busy with transactions of one row;
the same rows in fewer and larger ones cost less, and under load come through sooner.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock

PERMITS = 4
"""Some encode while others wait for their commit or their database; docs/performance.md compares numbers."""
ACQUIRE_TIMEOUT_SECONDS = 0.25
"""Then a shard goes without a turn: those that have one may be held up by a service that only they need."""


class FairSemaphore:
    """Turns for a number of threads, in the order in which they asked.

    Args:
        at_once: how many may have one.
        longest_wait_seconds: after which a thread goes without.
    """

    def __init__(self, at_once: int = PERMITS, longest_wait_seconds: float = ACQUIRE_TIMEOUT_SECONDS) -> None:
        self._left, self._longest_wait_seconds = at_once, longest_wait_seconds
        self._lock = Lock()
        self._waiting: deque[Event] = deque()

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Wait for a turn and have it for the block's time; whether there was one."""
        has_one = self._take()
        try:
            yield has_one
        finally:
            if has_one:
                self._pass_on()

    def _take(self) -> bool:
        with self._lock:
            if self._left:
                self._left -= 1
                return True
            mine = Event()
            self._waiting.append(mine)
        if mine.wait(self._longest_wait_seconds):
            return True
        with self._lock:
            if mine.is_set():  # in the last moment
                return True
            self._waiting.remove(mine)
            return False

    def _pass_on(self) -> None:
        """To who has waited longest; one who only just asks must not be faster."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._left += 1
