"""How many rows a shard's next transaction takes: adapted to how fast Kafka takes them.

A transaction has to end well within its timeout, so its size follows the throughput.
"""

from math import floor, log10

INITIAL_ROWS = 500
"""After a takeover, when the throughput is not known yet; a lease lasts only seconds."""
SLOW_SECONDS, MAX_SECONDS = 5.0, 10.0
"""A transaction that takes longer than the first is reported as slow; after one that takes longer than the second, the
size is halved. Below the first, the size grows."""
FAST_FAILURE_SECONDS = 0.5
"""A transaction that fails sooner did not fail because of its size."""


class BatchSize:
    """The number of rows in one shard's next transaction.

    Args:
        max_rows: the upper bound (``RELAY_BATCH_SIZE``).
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self.rows = min(INITIAL_ROWS, max_rows)
        self.slow: str | None = None
        """How slow Kafka is; None if the last transaction was fast enough, or nothing was sent for long."""

    def committed(self, rows: int, seconds: float) -> None:
        """Record a transaction that was committed."""
        if seconds > MAX_SECONDS:
            self.rows = max(1, rows // 2)
        elif seconds < SLOW_SECONDS and rows >= self.rows:
            self.rows = min(2 * self.rows, self._max_rows)
        self.slow = _slow(rows, seconds) if seconds > SLOW_SECONDS else None

    def failed(self, rows: int, seconds: float) -> None:
        """Record a transaction that failed for another reason than refused records."""
        if seconds > FAST_FAILURE_SECONDS:
            self.rows = max(1, rows // 2)


def _slow(rows: int, seconds: float) -> str:
    digits = max(0, floor(log10(rows / seconds)))  # one significant digit, so that not every transaction is logged
    rate = max(1, round(rows / seconds, -digits))
    return f"Kafka is slow: about {rate:,.0f} rows/s; transactions are kept small and rows wait"
