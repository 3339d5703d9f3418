"""What the shards tell the inference stage: that rows were marked, and that a backlog is being drained."""

import threading
from collections.abc import Callable
from time import monotonic

DRAIN_SECONDS = 30.0
"""A shard that sent a full batch longer ago than this stands still: whatever holds it, calls do not."""
DEFER_SECONDS, ALLOW_SECONDS = 54.0, 6.0
"""While a backlog is drained calls make way for this long, then have this long, in turn: a drain that ends soon is
never slowed, and one that never ends costs the calls nine tenths of their time, not all of it."""


class DrainSignal:
    """Told by the shards in each cycle; safe to use from many threads.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._news = threading.Event()
        self._full_at: dict[int, float] = {}
        self._rush_began, self._rush_seen = 0.0, float("-inf")

    def marked(self, shard: int, *, full: bool) -> None:
        """Rows were marked, and their calls made due; ``full``: as many as a batch may hold, so there are more."""
        if full:
            self._full_at[shard] = self._clock()
        else:
            self.caught_up(shard)
        self._news.set()

    def caught_up(self, shard: int) -> None:
        """The shard has no backlog, or none that it is draining."""
        self._full_at.pop(shard, None)

    def is_draining(self) -> bool:
        """Whether calls are to make way: a backlog is being drained, and it is not their turn."""
        with self._lock:
            now = self._clock()
            if not any(now - at < DRAIN_SECONDS for at in list(self._full_at.values())):
                return False
            if now - self._rush_seen > ALLOW_SECONDS:  # another rush; a moment's breath does not end the one before
                self._rush_began = now
            self._rush_seen = now
            return (now - self._rush_began) % (DEFER_SECONDS + ALLOW_SECONDS) < DEFER_SECONDS

    def wait(self, seconds: float) -> None:
        """Wait for the next mark, for this long at most."""
        self._news.wait(seconds)
        self._news.clear()
