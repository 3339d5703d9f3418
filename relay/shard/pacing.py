"""When a busy shard selects again: rows gather meanwhile, so that there are fewer transactions.

At ordinary rates the number of transactions is the load, not the number of rows.
"""

from collections.abc import Callable

GATHER_SECONDS, GATHER_ROWS = 0.02, 3
"""A shard that gets at least so many rows in that time begins at most one transaction in it. Fewer rows would not be
worth their wait."""


class Pacing:
    """How long one shard lets rows gather after a transaction.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._selected_at, self._interval = clock(), 0.0
        self._rows = 0

    def selecting(self) -> None:
        """Record that a select begins."""
        now = self._clock()
        self._interval, self._selected_at, self._rows = now - self._selected_at, now, 0

    def sent(self, rows: int) -> None:
        """Record how many rows of this select were sent."""
        self._rows = rows

    def pause_seconds(self) -> float:
        """How long to wait before the next select; 0 unless rows arrive quickly enough."""
        if self._rows < max(GATHER_ROWS, GATHER_ROWS * self._interval / GATHER_SECONDS):
            return 0.0
        return max(0.0, self._selected_at + GATHER_SECONDS - self._clock())
