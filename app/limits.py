"""Refusing what this service cannot take in: a rate, and a backlog."""

import threading
from collections.abc import Callable
from time import monotonic

from config.token_bucket import TokenBucket
from outbox.errors import OutboxError
from outbox.store import Store

BACKLOG_SECONDS = 1.0
"""How long a look at the backlog is good for."""


class RateLimit:
    """A token bucket with a second's worth of burst.

    Args:
        per_second: requests a second, of this process.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._bucket = TokenBucket(per_second, clock)

    def allows(self) -> bool:
        """Take a token, if there is one."""
        return self._bucket.try_take()


class BacklogLimit:
    """Whether the outbox has reached its limit, looked up about once a second.

    Args:
        store: of the outbox.
        rows: the limit.
    """

    def __init__(self, store: Store, rows: int) -> None:
        self._store, self._rows = store, rows
        self._lock = threading.Lock()
        self._reached, self._good_until = False, 0.0

    def reached(self) -> bool:
        """Whether new interactions are to be refused; unknown counts as no: the commit decides.

        No request waits for the look: a database that answers late would hold it beyond its time.
        """
        if monotonic() >= self._good_until and self._lock.acquire(blocking=False):
            try:
                threading.Thread(target=self._look, name="backlog-limit", daemon=True).start()
            except RuntimeError:  # no thread to be had: what was seen before counts
                self._lock.release()
        return self._reached

    def _look(self) -> None:
        try:
            self._reached = self._store.pending_at_least(self._rows)
        except OutboxError:
            self._reached = False
        finally:
            self._good_until = monotonic() + BACKLOG_SECONDS
            self._lock.release()
