"""Which row of a refused batch is at fault: the batch is halved until that row is alone.

The broker refuses batches, not records. Only a row that is refused alone in its transaction is known to be at fault.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from outbox.models import PendingRow
from relay.errors import MisconfiguredError

MAX_CONSECUTIVE_PARKED = 3
"""How many rows may be parked consecutively. After that another row must be accepted first."""
PROBE_WINDOW_ROWS = 500
"""How many rows a probe is chosen from, at least."""


class Bisection(NamedTuple):
    """The search for the rejected row of one batch."""

    rows: int
    """In each transaction."""
    last_id: int
    """Highest id that the rejected row can have."""


class BatchBisector:
    """Finds the rows of one shard that Kafka refuses.

    When several rows were parked consecutively, the cause is probably not the rows. Then one row is chosen at random
    and sent alone as a probe: if it is refused as well, nothing more is parked.

    Args:
        random: chooses the probe.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._bisection: Bisection | None = None
        self._consecutive_parked = 0

    @property
    def max_rows(self) -> int | None:
        """Maximum number of rows in the next transaction; None outside a search."""
        return self._bisection.rows if self._bisection else None

    @property
    def probing(self) -> bool:
        """Whether the next transaction is a probe."""
        return self._consecutive_parked >= MAX_CONSECUTIVE_PARKED

    def window(self, max_rows: int) -> int:
        """How many rows to select; a probe needs a choice of rows.

        Args:
            max_rows: as many are selected outside a probe.
        """
        return max(max_rows, PROBE_WINDOW_ROWS) if self.probing else max_rows

    def choose(self, rows: list[PendingRow], limit: int) -> list[PendingRow]:
        """The rows to send now: the first ones, or the probe, which is the first row of its interaction."""
        if not self.probing:
            return rows[:limit]
        firsts = {row.interaction_id: row for row in reversed(rows)}
        return [self._random.choice(list(firsts.values()))]

    def committed(self, rows: Sequence[PendingRow]) -> None:
        """Record that Kafka accepted these rows."""
        self._consecutive_parked = 0
        if self._bisection and rows[-1].id >= self._bisection.last_id:
            self._bisection = None

    def refused(self, rows: Sequence[PendingRow], reason: str) -> PendingRow | None:
        """Record that Kafka refused these rows; returns the rejected row if it was alone.

        Raises:
            MisconfiguredError: the probe was refused, so no row is at fault.
        """
        if len(rows) > 1:
            last_id = max(rows[-1].id, self._bisection.last_id if self._bisection else 0)
            self._bisection = Bisection(len(rows) // 2, last_id)
            return None
        if self.probing:
            raise MisconfiguredError(
                f"Kafka refused {self._consecutive_parked} consecutive rows, which are parked, and then another row "
                f"that was sent alone ({reason}): that is not a fault of rows, so no more are parked. Correct the "
                "topic's settings, then send the parked rows with relay retry"
            )
        self._bisection = None
        self._consecutive_parked += 1
        return rows[0]

    def reset(self) -> None:
        """End the search: no rows are left."""
        self._bisection = None
