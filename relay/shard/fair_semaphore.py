"""Limits how many shards of a process run a cycle at the same time.

If every shard ran one transaction after the other, each transaction would carry few rows. While shards wait for each
other their rows gather, and the same rows cost fewer transactions.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock

PERMITS = 4
"""Some shards encode while others wait for a commit or the database; docs/performance.md compares numbers."""
ACQUIRE_TIMEOUT_SECONDS = 0.25
"""After which a shard runs without a permit: those that have one may wait for a service that it does not need."""


class FairSemaphore:
    """A first-in, first-out semaphore with a timeout, after which a thread continues without a permit.

    Args:
        permits: how many threads may have one.
        timeout_seconds: how long to wait for a permit.
    """

    def __init__(self, permits: int = PERMITS, timeout_seconds: float = ACQUIRE_TIMEOUT_SECONDS) -> None:
        self._available, self._timeout_seconds = permits, timeout_seconds
        self._lock = Lock()
        self._queue: deque[Event] = deque()

    @property
    def waiting(self) -> int:
        """How many threads wait for a permit."""
        with self._lock:
            return len(self._queue)

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Hold a permit inside the block; yields False if the wait timed out and there is none."""
        acquired = self._acquire()
        try:
            yield acquired
        finally:
            if acquired:
                self._release()

    def _acquire(self) -> bool:
        with self._lock:
            if self._available:
                self._available -= 1
                return True
            granted = Event()
            self._queue.append(granted)
        if granted.wait(self._timeout_seconds):
            return True
        with self._lock:
            if granted.is_set():  # between the timeout and the lock
                return True
            self._queue.remove(granted)
            return False

    def _release(self) -> None:
        """Give the permit to the thread that has waited longest, never to one that asks only now."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._available += 1
