"""Check the outcome of a fault run: each accepted row is in the topic once and in order, or is accounted for."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isinf
from typing import NamedTuple

from testkit.topic import ConsumedRecord


class InjectedFault(NamedTuple):
    """One fault, or two simultaneous ones, as injected."""

    name: str
    began: float
    """Start time, in seconds since the epoch."""
    recovered: float
    """When each partition had got a record after the fault ended; infinite if one got none in time."""


class Observations(NamedTuple):
    """What was observed in a run; rows are named by outbox id."""

    accepted: Mapping[int, float]
    """When each row was answered with 202."""
    not_stored: frozenset[int]
    """Rows answered with 202 that the database does not have; another row may have the id."""
    committed: Mapping[int, float]
    """When each row in the database was received."""
    accounted_for: frozenset[int]
    """Rows not in the topic that operators see: parked, discarded, or pending on a shard with a condition."""
    records: Sequence[ConsumedRecord]
    """The topic, as a ``read_committed`` consumer sees it."""
    arrivals: Mapping[int, Sequence[float]]
    """Arrival times by partition, in order, at a consumer that ran throughout."""
    misplaced: frozenset[int]
    """Ids that are in none of the tables of pending, sent and parked rows, or in two."""
    progress_missed: int = 0
    """How often a relay found no progress record of a shard, although no fault removes one."""


class FaultSummary(NamedTuple):
    """The counts for one kind of fault: one line of the table."""

    fault: str
    injected: int
    rows: int
    lost: int
    duplicated: int
    out_of_order: int
    accounted_for: int
    misplaced: int
    longest_pause: float
    """Longest time without an arrival in a partition, between the start of a fault and its recovery, in seconds."""
    longest_refusal: float = 0.0
    """Longest time without an answer with 202, likewise."""

    @property
    def exact(self) -> bool:
        """Whether every row was delivered exactly once and in order, and delivery recovered from each fault."""
        wrong = (self.lost, self.duplicated, self.out_of_order, self.accounted_for, self.misplaced)
        return not any(wrong) and not isinf(self.longest_pause)


HEADINGS = (
    "fault",
    "times",
    "rows",
    "lost",
    "duplicated",
    "out of order",
    "accounted for",
    "misplaced",
    "longest pause",
    "longest without a 202",
)


def check_outcome(injected: Sequence[InjectedFault], observed: Observations) -> list[FaultSummary]:
    """Return a summary for each kind of fault and one for all; a row counts for the last fault that began before it."""
    received = {**observed.committed, **observed.accepted}
    copies = Counter(record.outbox_id for record in observed.records)
    out_of_order = _out_of_order(observed.records)
    answers = sorted(observed.accepted.values())

    def summarize(name: str, rows: set[int], faults: Sequence[InjectedFault]) -> FaultSummary:
        missing = {row for row in rows if not copies[row]}
        return FaultSummary(
            fault=name,
            injected=len(faults),
            rows=len(rows),
            lost=len(missing - observed.accounted_for | rows & observed.not_stored),
            duplicated=sum(copies[row] - 1 for row in rows if copies[row] > 1),
            out_of_order=len(rows & out_of_order),
            accounted_for=len(missing & observed.accounted_for),
            misplaced=len(rows & observed.misplaced),
            longest_pause=max(
                (
                    longest_pause(times, each.began, each.recovered)
                    for each in faults
                    for times in observed.arrivals.values()
                ),
                default=0,
            ),
            longest_refusal=max(
                (longest_pause(answers, each.began, _next(answers, each)) for each in faults), default=0
            ),
        )

    by_fault = _rows_by_fault(injected, received)
    summaries = [summarize(name, rows, [i for i in injected if i.name == name]) for name, rows in by_fault.items()]
    # Records of unknown rows count as duplicates, and so does a progress record that a relay missed: whether rows were
    # sent twice then depends on whether any was unmarked.
    unknown = sum(count for row, count in copies.items() if row not in received) + observed.progress_missed
    total = summarize("all", set(received), injected)
    return [*summaries, total._replace(duplicated=total.duplicated + unknown, misplaced=len(observed.misplaced))]


def _next(answers: Sequence[float], fault: InjectedFault) -> float:
    """Return the time of the first answer with 202 after a fault's recovery."""
    return next(iter(answers[bisect_right(answers, fault.recovered) :]), fault.recovered)


def _rows_by_fault(injected: Sequence[InjectedFault], received: Mapping[int, float]) -> dict[str, set[int]]:
    rows: dict[str, set[int]] = {each.name: set() for each in injected}
    starts = [each.began for each in injected]
    for row, at in received.items():
        index = bisect_right(starts, at) - 1
        if index >= 0:
            rows[injected[index].name].add(row)
    return rows


def _out_of_order(records: Sequence[ConsumedRecord]) -> set[int]:
    """Return the rows whose record follows that of a later row of the same interaction."""
    last: dict[str, int] = {}
    found = set()
    for record in records:  # in order within each partition, and so within each interaction
        if record.outbox_id < last.get(record.key, 0):
            found.add(record.outbox_id)
        last[record.key] = max(record.outbox_id, last.get(record.key, 0))
    return found


def longest_pause(arrivals: Sequence[float], began: float, ended: float) -> float:
    """Return the longest time between two arrivals that overlaps the span."""
    first, last = bisect_right(arrivals, began), bisect_right(arrivals, ended)
    points = [*arrivals[max(0, first - 1) : first], *arrivals[first:last], ended]
    return max((later - earlier for earlier, later in pairwise(points)), default=0.0)


def markdown_table(summaries: Sequence[FaultSummary]) -> str:
    """Format summaries as a Markdown table."""
    cells = [
        [each.fault, *(f"{number:,}" for number in each[1:8]), *(f"{seconds:.1f} s" for seconds in each[8:])]
        for each in summaries
    ]
    rows = [list(HEADINGS), ["---"] + ["---:"] * (len(HEADINGS) - 1), *cells]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
