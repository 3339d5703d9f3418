"""Signals from the shards to the inference calls: rows were sent, and a backlog is being drained."""

import threading
from collections.abc import Callable
from time import monotonic

DRAIN_SECONDS = 30.0
"""How long a shard counts as draining after its last full batch; a blocked shard does not throttle the calls."""
DEFER_SECONDS, ALLOW_SECONDS = 54.0, 6.0
"""During a drain, inference calls are throttled for the first, then allowed for the second, in turn. A short drain is
never slowed down, and a drain without end leaves the calls a tenth of the time."""


class DrainSignal:
    """Which shards drain a backlog; thread-safe.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._sent = threading.Event()
        self._full_batch_at: dict[int, float] = {}
        self._drain_began, self._drain_seen = 0.0, float("-inf")

    def rows_sent(self, shard: int, *, full_batch: bool) -> None:
        """Record that rows were marked sent, which made their calls due.

        Args:
            shard: that sent them.
            full_batch: there were as many as a batch may have, so more are waiting.
        """
        if full_batch:
            self._full_batch_at[shard] = self._clock()
        else:
            self.caught_up(shard)
        self._sent.set()

    def caught_up(self, shard: int) -> None:
        """Record that the shard has no backlog, or is not draining it."""
        self._full_batch_at.pop(shard, None)

    def is_draining(self) -> bool:
        """Whether calls are to be throttled: a backlog is being drained, and its allowed seconds have not come."""
        with self._lock:
            now = self._clock()
            if not any(now - at < DRAIN_SECONDS for at in list(self._full_batch_at.values())):
                return False
            if now - self._drain_seen > ALLOW_SECONDS:  # a new drain; a shorter gap does not end the one before
                self._drain_began = now
            self._drain_seen = now
            return (now - self._drain_began) % (DEFER_SECONDS + ALLOW_SECONDS) < DEFER_SECONDS

    def wait(self, seconds: float) -> None:
        """Wait until rows are sent, or for this long."""
        self._sent.wait(seconds)
        self._sent.clear()
