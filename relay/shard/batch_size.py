"""How many rows the next Kafka transaction of a shard takes: fewer after a refusal, or while the way is slow.

The broker refuses batches, not records, so a refused batch is halved until the culprit is alone. And a
transaction has to end well within its time-out, so its size follows the speed of the way to Kafka.
"""

from collections.abc import Sequence
from math import floor, log10
from random import Random
from typing import NamedTuple

from outbox.models import PendingRow
from relay.errors import MisconfiguredError

INITIAL_ROWS = 500
"""A relay that takes a shard over does not know yet how slow the way is, and a lease lasts seconds."""
SLOW_SECONDS, MAX_SECONDS = 5.0, 10.0
"""A transaction that takes longer: it is said, and the next one is half as large. Below, the next one may be larger."""
FAST_FAILURE_SECONDS = 0.5
"""A transaction that fails within it says nothing of the size; with a short time-out of Kafka's, later ones do."""
MAX_PARKED_IN_A_ROW = 3
"""Rows parked one after the other with none sent between them; before another is parked, any other has to pass."""


class Bisection(NamedTuple):
    """A refused batch is searched for its culprit."""

    rows: int
    """In each transaction."""
    until: int
    """The culprit's id is this one or a lower one."""


class BatchSize:
    """The size of one shard's transactions.

    Args:
        most: rows in a transaction (``RELAY_BATCH_SIZE``).
        random: chooses the row that is tried when all rows seem to be refused.
    """

    def __init__(self, most: int, random: Random) -> None:
        self._most, self._random = most, random
        self._paced = min(INITIAL_ROWS, most)
        self._bisection: Bisection | None = None
        self._parked = 0
        self.slow: str | None = None
        """While the way to Kafka is slow: how slow. Until another transaction shows it, or none was made for long."""

    @property
    def limit(self) -> int:
        """Rows in the next transaction, at most."""
        return min(self._bisection.rows, self._paced) if self._bisection else self._paced

    @property
    def window(self) -> int:
        """Rows to select, at most: the first ones may wait for CXone, and where one is tried, there is a choice."""
        return max(self._most, INITIAL_ROWS) if self._parked >= MAX_PARKED_IN_A_ROW else self._most

    def choose(self, rows: list[PendingRow]) -> list[PendingRow]:
        """Of selected rows, those to send now: the first ones, or one that shows whether any row passes."""
        if self._parked < MAX_PARKED_IN_A_ROW:
            return rows[: self.limit]
        firsts = {row.interaction_id: row for row in reversed(rows)}
        return [self._random.choice(list(firsts.values()))]

    def committed(self, rows: Sequence[PendingRow], seconds: float) -> None:
        """Take note of a transaction that was committed in so many seconds."""
        self._parked = 0
        if self._bisection and rows[-1].id >= self._bisection.until:
            self._bisection = None
        if seconds > MAX_SECONDS:
            self._paced = max(1, len(rows) // 2)
        elif seconds < SLOW_SECONDS and len(rows) >= self._paced:
            self._paced = min(2 * self._paced, self._most)
        self.slow = _slow(len(rows), seconds) if seconds > SLOW_SECONDS else None

    def failed(self, rows: Sequence[PendingRow], seconds: float) -> None:
        """Take note of a transaction that ended in an error which is not a refusal."""
        if seconds > FAST_FAILURE_SECONDS:
            self._paced = max(1, len(rows) // 2)

    def refused(self, rows: Sequence[PendingRow], reason: str) -> PendingRow | None:
        """Take note of a refusal; the culprit, if it is alone.

        Raises:
            MisconfiguredError: nothing passes, so that no row is at fault.
        """
        if len(rows) > 1:
            until = max(rows[-1].id, self._bisection.until if self._bisection else 0)
            self._bisection = Bisection(len(rows) // 2, until)
            return None
        if self._parked >= MAX_PARKED_IN_A_ROW:
            raise MisconfiguredError(
                f"{self._parked} rows were parked one after the other, and another one that was tried alone is refused "
                f"as well ({reason}): no more are parked, because that is not a fault of rows. Put the topic's "
                "settings right; then relay retry sends the parked ones"
            )
        self._bisection = None
        return rows[0]

    def parked(self, rows: int) -> None:
        """Take note of rows that were parked because Kafka refused them."""
        self._parked += rows

    def nothing_left(self) -> None:
        """There are no rows to select."""
        self._bisection = None


def _slow(rows: int, seconds: float) -> str:
    digits = max(0, floor(log10(rows / seconds)))  # one digit is enough, lest each transaction is news
    rate = max(1, round(rows / seconds, -digits))
    return f"the way to Kafka is slow: about {rate:,.0f} rows/s; transactions are kept small, rows wait"
