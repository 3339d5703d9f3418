"""The size of the backlog from which requests are refused."""

import threading
from collections.abc import Callable
from time import monotonic

from outbox.errors import OutboxError

BACKLOG_INTERVAL_SECONDS = 1.0


class BacklogLimit:
    """Whether the backlog has reached its limit, checked in the background about once a second.

    Args:
        pending_at_least: Whether the outbox has at least so many pending rows.
        rows: The limit.
    """

    def __init__(self, pending_at_least: Callable[[int], bool], rows: int) -> None:
        self._pending_at_least, self._rows = pending_at_least, rows
        self._lock = threading.Lock()
        self._reached, self._next_check = False, 0.0

    def reached(self) -> bool:
        """Whether the last check found the limit reached; False if it failed, since the commit then decides.

        No request waits for a check: a slow database would delay it beyond its deadline.
        """
        if monotonic() >= self._next_check and self._lock.acquire(blocking=False):
            try:
                threading.Thread(target=self._check, name="backlog-limit", daemon=True).start()
            except RuntimeError:  # no thread available: the last result stands
                self._lock.release()
        return self._reached

    def _check(self) -> None:
        try:
            self._reached = self._pending_at_least(self._rows)
        except OutboxError:
            self._reached = False
        finally:
            self._next_check = monotonic() + BACKLOG_INTERVAL_SECONDS
            self._lock.release()
