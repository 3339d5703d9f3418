"""What a verification found."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from outbox.models import StoredVerdict

SAMPLES = 5
"""Findings of each kind that are named."""


class Fault(StrEnum):
    """What must not be."""

    MISSING = "missing"
    """Marked sent or in no state, but not in the topic."""
    DOUBLED = "doubled"
    """In the topic more than once."""
    OUT_OF_ORDER = "out_of_order"
    """In the topic after a later row of its interaction."""
    CHANGED = "changed"
    """Its record has another content than the row."""
    UNSENT = "unsent"
    """In the topic, but parked, discarded or in no state."""
    UNKNOWN = "unknown"
    """A record that is not of a row of this outbox."""


class Note(StrEnum):
    """What cannot be compared, or is no fault."""

    PRUNED = "pruned"
    """Records whose row may have been pruned."""
    EXPIRED = "expired"
    """Rows whose record may have been removed from the topic."""
    ERASED = "erased"
    """Records that differ from a row whose personal data was erased since."""
    REORDERED = "reordered"
    """Rows behind later ones of their interaction: an operator sent them again, or both were posted at one time."""
    NOT_MARKED = "not_marked"
    """Records whose row is still pending: the relay marks it next."""
    LATER = "later"
    """Rows that were marked sent after the end of the topics was determined."""
    NOT_READ = "not_read"
    """Rows that were sent to a topic that KAFKA_REPLAY_TOPICS does not name."""
    FOREIGN = "foreign"
    """Records of other outboxes in a topic that is said to be shared."""


class Sample(NamedTuple):
    """One finding, without personal data."""

    id: int | None
    """Outbox id; None: the record names none."""
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


@dataclass
class Verdict:
    """The result of a verification, which further passes add to."""

    since_ms: int
    until_ms: int
    """Not included."""
    values: bool
    """Whether the content of records was compared."""
    at_ms: int = 0
    """When the end of the topics was determined, by the database's clock."""
    rows: int = 0
    """Received in the range."""
    states: Counter[str] = field(default_factory=Counter)
    """Rows by state."""
    in_topic: int = 0
    """Rows whose record was found."""
    records: int = 0
    """How many were read, those of other ranges included."""
    counts: Counter[str] = field(default_factory=Counter)
    """By ``Fault`` and ``Note``."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """Of each kind the findings with the lowest ids."""

    def found(self, kind: Fault | Note, sample: Sample) -> None:
        """Count a finding, and keep those with the lowest ids."""
        self.counts[kind] += 1
        kept = self.samples.setdefault(kind, [])
        kept.append(sample)
        kept.sort(key=lambda each: each.id or 0)
        del kept[SAMPLES:]

    @property
    def faults(self) -> dict[str, int]:
        """Number of faults by kind."""
        return {kind.value: self.counts[kind] for kind in Fault}

    @property
    def notes(self) -> dict[str, int]:
        """Number of other findings by kind."""
        return {kind.value: self.counts[kind] for kind in Note}

    @property
    def is_clean(self) -> bool:
        """Whether no fault was found."""
        return not any(self.faults.values())

    @property
    def stored(self) -> StoredVerdict:
        """What is kept of it in the database."""
        faults = {kind: count for kind, count in self.faults.items() if count}
        return StoredVerdict(self.at_ms, self.since_ms, self.until_ms, self.values, self.rows, faults)

    def as_json(self) -> dict[str, Any]:
        """Return the fields of its JSON, as docs/verify.md lists them."""
        return {
            "verdict": "ok" if self.is_clean else "fault",
            "since_ms": self.since_ms,
            "until_ms": self.until_ms,
            "at_ms": self.at_ms,
            "values": self.values,
            "rows": self.rows,
            **{state: self.states[state] for state in ("sent", "pending", "parked", "discarded")},
            "in_topic": self.in_topic,
            "records": self.records,
            "faults": self.faults,
            "notes": self.notes,
            "samples": {
                kind.value: [sample._asdict() for sample in self.samples[kind]]
                for kind in (*Fault, *Note)
                if self.counts[kind]
            },
        }
