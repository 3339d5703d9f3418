"""What the shards tell the inference stage: that rows were marked, and that a backlog is being drained."""

import threading
from time import monotonic

RUSH_SECONDS = 1.0
"""A full batch was marked within this time: the way into Kafka has more to do than it can, and goes first."""


class Marks:
    """Told after each mark; safe to use from many threads."""

    def __init__(self) -> None:
        self._news = threading.Event()
        self._full_at = float("-inf")

    def marked(self, *, full: bool) -> None:
        """Rows were marked, and their calls made due; ``full``: as many as a batch may hold."""
        if full:
            self._full_at = monotonic()
        self._news.set()

    def rushing(self) -> bool:
        """Whether a backlog is being drained."""
        return monotonic() - self._full_at < RUSH_SECONDS

    def wait(self, seconds: float) -> None:
        """Wait for the next mark, for this long at most."""
        self._news.wait(seconds)
        self._news.clear()
