"""The verdict of a verification as text."""

from collections.abc import Iterator

from outbox.operators.format import format_time
from outbox.states import RowState
from relay.verify.verdict import Fault, Note, Sample, Verdict

WIDTH = 14
MEANINGS: dict[Fault | Note, str] = {
    Fault.MISSING: "marked sent or in no state, but not in the topic",
    Fault.DOUBLED: "in the topic more than once",
    Fault.OUT_OF_ORDER: "in the topic after a later row of the interaction",
    Fault.CHANGED: "the record differs from the row",
    Fault.UNSENT: "in the topic, but parked, discarded or in no state",
    Fault.UNKNOWN: "records of no row of this outbox",
    Note.PRUNED: "records whose row was pruned: not compared",
    Note.EXPIRED: "rows whose record the topic may have removed (retention, compaction): not compared",
    Note.ERASED: "records that differ from a row whose personal data was erased since",
    Note.REORDERED: "behind a later row: an operator sent them again, or both were posted at the same time",
    Note.NOT_MARKED: "in the topic, and pending until the relay marks them",
    Note.LATER: "marked sent during the verification: not compared",
    Note.NOT_READ: "sent to a topic that KAFKA_REPLAY_TOPICS does not name: not compared",
    Note.FOREIGN: "records of other outboxes",
}


def format_verdict(verdict: Verdict) -> Iterator[str]:
    """Yield the range, the numbers, and the first findings of each kind."""
    yield f"received from {format_time(verdict.since_ms)} until {format_time(verdict.until_ms)}"
    yield _line("rows", verdict.rows)
    for state in RowState:
        if state == RowState.SENT or verdict.states[state]:
            yield _line(state, verdict.states[state])
    yield _line("in the topic", verdict.in_topic, f"of {verdict.records:,} records that were read")
    for fault in Fault:
        if fault is not Fault.CHANGED or verdict.values:
            yield from _finding(verdict, fault)
    for note in Note:
        if verdict.counts[note]:
            yield from _finding(verdict, note)
    compared = "order and content" if verdict.values else "order"
    faults = sum(verdict.faults.values())
    yield f"{faults:,} faults" if faults else f"no fault: every compared row is in the topic once; {compared} compared"


def _finding(verdict: Verdict, kind: Fault | Note) -> Iterator[str]:
    count = verdict.counts[kind]
    yield _line(kind.replace("_", " "), count, MEANINGS[kind])
    if count:
        names = ", ".join(map(_name, verdict.samples[kind]))
        yield f"{'':<{WIDTH}} first: {names}"


def _name(sample: Sample) -> str:
    row = "no id" if sample.id is None else str(sample.id)
    return row if sample.offset is None else f"{row} ({sample.topic} {sample.partition}:{sample.offset})"


def _line(name: str, count: int, meaning: str = "") -> str:
    return f"{name:<{WIDTH}} {count:>12,}  {meaning}".rstrip()
