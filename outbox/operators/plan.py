"""The rows that an operator was shown, so that a change acts on exactly these."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

from outbox.operators.rows import FoundRow, PlannedRow


class Plan:
    """The rows of a planned change, at 24 bytes a row.

    Args:
        rows: as they were found, in id order.

    Attributes:
        sample: the first rows.
        states: number of rows in each state.
        replays: number of rows that are themselves replays.
        last_received_ms: when the newest of the rows was received, in milliseconds since the epoch; 0: there is none.
    """

    SAMPLE_ROWS = 5

    def __init__(self, rows: Iterable[FoundRow]) -> None:
        self._columns = tuple(array("q") for _ in PlannedRow._fields)
        self.sample: list[FoundRow] = []
        self.states: Counter[str] = Counter()
        self.replays = self.last_received_ms = 0
        for row in rows:
            for column, value in zip(self._columns, row.planned, strict=True):
                column.append(value)
            if len(self.sample) < self.SAMPLE_ROWS:
                self.sample.append(row)
            self.states[row.state] += 1
            self.replays += row.replay_of is not None
            self.last_received_ms = max(self.last_received_ms, row.received_at_ms)

    def __len__(self) -> int:
        return len(self._columns[0])

    def chunks(self, size: int) -> Iterator[list[PlannedRow]]:
        """Yield the rows in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            columns = (column[start : start + size] for column in self._columns)
            yield [PlannedRow._make(values) for values in zip(*columns, strict=True)]
