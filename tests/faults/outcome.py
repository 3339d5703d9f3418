"""What a run of faults comes to: each accepted row is in the topic once and in order, or in sight (pure)."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isinf
from typing import NamedTuple

from testkit.topic import ConsumedRecord


class Injected(NamedTuple):
    """One fault, or two at the same time, as it was inflicted."""

    name: str
    began: float
    """When it began, in seconds since the epoch."""
    recovered: float
    """When the first row came through after it was over; infinite: none did in time."""


class Evidence(NamedTuple):
    """What is known after a run, each row by its outbox id."""

    accepted: Mapping[int, float]
    """Rows that were answered with 202, and when."""
    committed: Mapping[int, float]
    """Rows in the database, and when they were received."""
    in_sight: frozenset[int]
    """Rows that an operator sees: parked, or pending on a shard that says why it does not move."""
    seen: Sequence[ConsumedRecord]
    """What ``read_committed`` consumers see."""
    arrivals: Sequence[float]
    """When a consumer that was there all the time got its records, in order."""


class Line(NamedTuple):
    """One line of the table."""

    fault: str
    injected: int
    rows: int
    lost: int
    doubled: int
    disordered: int
    in_sight: int
    longest_pause: float
    """Longest time without a record for consumers between a fault's beginning and its recovery, in seconds."""

    @property
    def exact(self) -> bool:
        """Whether the promise held, and nothing is left over."""
        return not (self.lost or self.doubled or self.disordered or self.in_sight or isinf(self.longest_pause))


HEADINGS = ("fault", "times", "rows", "lost", "doubled", "out of order", "in sight", "longest pause")


def judge(injected: Sequence[Injected], evidence: Evidence) -> list[Line]:
    """A line for each kind of fault, and one for all; a row counts for the fault that it was received in or after."""
    times = {**evidence.committed, **evidence.accepted}
    found = Counter(record.outbox_id for record in evidence.seen)
    disordered = _disordered(evidence.seen)
    by_fault: dict[str, set[int]] = {each.name: set() for each in injected}
    begins = [each.began for each in injected]
    for row, at in times.items():
        place = bisect_right(begins, at) - 1
        if place >= 0:
            by_fault[injected[place].name].add(row)

    def line(name: str, rows: set[int], its: Sequence[Injected]) -> Line:
        missing = {row for row in rows if not found[row]}
        return Line(
            name,
            len(its),
            len(rows),
            len(missing - evidence.in_sight),
            sum(found[row] - 1 for row in rows if found[row] > 1),
            len(rows & disordered),
            len(missing & evidence.in_sight),
            max((longest_pause(evidence.arrivals, each.began, each.recovered) for each in its), default=0.0),
        )

    lines = [line(name, rows, [i for i in injected if i.name == name]) for name, rows in by_fault.items()]
    # Records of rows that nobody knows of count as doubled: they came from nowhere.
    unknown = sum(count for row, count in found.items() if row not in times)
    everything = line("all", set(times), injected)
    return [*lines, everything._replace(doubled=everything.doubled + unknown)]


def _disordered(seen: Sequence[ConsumedRecord]) -> set[int]:
    """Rows that stand behind a later one of their interaction; ``seen`` is in order within each partition."""
    last: dict[str, int] = {}
    found = set()
    for record in seen:
        if record.outbox_id < last.get(record.key, 0):
            found.add(record.outbox_id)
        last[record.key] = max(record.outbox_id, last.get(record.key, 0))
    return found


def longest_pause(arrivals: Sequence[float], began: float, ended: float) -> float:
    """Longest time between two arrivals that reaches into the span."""
    first, last = bisect_right(arrivals, began), bisect_right(arrivals, ended)
    points = [*arrivals[max(0, first - 1) : first], *arrivals[first:last], ended]
    return max((later - earlier for earlier, later in pairwise(points)), default=0.0)


def table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table."""
    cells = [[line.fault, *(f"{number:,}" for number in line[1:7]), f"{line.longest_pause:.1f} s"] for line in lines]
    rows = [list(HEADINGS), ["---"] + ["---:"] * (len(HEADINGS) - 1), *cells]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
