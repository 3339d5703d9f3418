"""What the shards tell the inference stage: that rows were marked, and that a backlog is being drained."""

import threading
from time import monotonic

RUSH_SECONDS = 30.0
"""A shard that found a full batch longer ago than this stands still: whatever holds it, calls do not."""


class Marks:
    """Told by the shards in each cycle; safe to use from many threads."""

    def __init__(self) -> None:
        self._news = threading.Event()
        self._full_at: dict[int, float] = {}

    def selected(self, shard: int, *, full: bool) -> None:
        """A shard has looked for rows; ``full``: it found as many as a batch may hold, so there are more."""
        if full:
            self._full_at[shard] = monotonic()
        else:
            self._full_at.pop(shard, None)

    def marked(self) -> None:
        """Rows were marked, and their calls made due."""
        self._news.set()

    def rushing(self) -> bool:
        """Whether a backlog is being drained: the way into Kafka has more to do than it can, and goes first."""
        return any(monotonic() - at < RUSH_SECONDS for at in list(self._full_at.values()))

    def wait(self, seconds: float) -> None:
        """Wait for the next mark, for this long at most."""
        self._news.wait(seconds)
        self._news.clear()
