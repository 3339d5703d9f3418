"""What the shards tell the inference stage: that rows were marked, and that a backlog is being drained."""

import threading
from time import monotonic

RUSH_SECONDS = 30.0
"""A shard that sent a full batch longer ago than this stands still: whatever holds it, calls do not."""


class Marks:
    """Told by the shards in each cycle; safe to use from many threads."""

    def __init__(self) -> None:
        self._news = threading.Event()
        self._full_at: dict[int, float] = {}

    def marked(self, shard: int, *, full: bool) -> None:
        """Rows were marked, and their calls made due; ``full``: as many as a batch may hold, so there are more."""
        if full:
            self._full_at[shard] = monotonic()
        else:
            self.keeps_up(shard)
        self._news.set()

    def keeps_up(self, shard: int) -> None:
        """The shard has no backlog, or none that it is draining."""
        self._full_at.pop(shard, None)

    def rushing(self) -> bool:
        """Whether a backlog is being drained: the way into Kafka has more to do than it can, and goes first."""
        return any(monotonic() - at < RUSH_SECONDS for at in list(self._full_at.values()))

    def wait(self, seconds: float) -> None:
        """Wait for the next mark, for this long at most."""
        self._news.wait(seconds)
        self._news.clear()
