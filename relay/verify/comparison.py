"""Compares the records of the topics with the rows of the outbox, page by page."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import Message

from outbox.operators.verification import ComparedRow, OutboxReader
from relay.kafka.record import OUTBOX_ID, RECEIVED_AT, headers_of
from relay.verify.content import ContentHasher
from relay.verify.row_table import HASH_BITS, REPORTED, SEEN, UNSENT, RowTable
from relay.verify.verdict import Fault, Note, Sample, Verdict

RESENT = ("send lost rows",)
"""Verbs of the audit after which a row is behind later ones of its interaction."""
RETRIED = "retry"
"""The same, where parked rows do not block later ones."""
PRUNED = ("prune",)
MAX_DIGITS = 19
"""Of a time in milliseconds that the database can hold; int() refuses thousands of digits."""


@dataclass(frozen=True)
class Rules:
    """What the settings say about this outbox and its topics."""

    topics: tuple[str, ...]
    """Those that are read, the configured topic first."""
    retention_ms: int | None = None
    """How long finished rows are kept; None: until an operator removes them."""
    block_behind_parked: bool = True
    """Whether parked rows block later rows of their interaction."""
    shared_topic: bool = False
    """Whether other outboxes write to the topics."""


class _Late(NamedTuple):
    """A record that came after one of the same partition and shard with a higher id."""

    place: int
    """In its page."""
    sample: Sample


class _Changed(NamedTuple):
    """A record whose content is not what its row had when it was added."""

    id: int
    content: int
    """Hash of the record's content."""
    sample: Sample


class _Other(NamedTuple):
    """A record that is not of a row of the table."""

    id: int | None
    key: str
    received_at_ms: int | None
    sample: Sample


@dataclass
class _Page:
    """What has to be looked up for a page of records."""

    late: list[_Late] = field(default_factory=list)
    changed: list[_Changed] = field(default_factory=list)
    others: list[_Other] = field(default_factory=list)
    seen_at: dict[int, int] = field(default_factory=dict)
    """By id, at which index of the page the record of a row was read."""


class Comparison:
    """Holds the rows of a range of time against the records of the topics.

    All rows whose records may be read have to be added before the records are compared.

    Args:
        outbox: where rows are looked up.
        table: the rows of the range.
        verdict: where findings are counted; its range decides which records count.
        rules: of this outbox.
        hasher: hashes contents; None: only headers and keys are compared.
    """

    def __init__(
        self, outbox: OutboxReader, table: RowTable, verdict: Verdict, rules: Rules, hasher: ContentHasher | None = None
    ) -> None:
        self._outbox, self._table, self._verdict, self._rules = outbox, table, verdict, rules
        self._hasher = hasher
        self._topics: dict[str | None, int] = {topic: number for number, topic in enumerate(rules.topics)}
        self._topics[None] = 0
        self._highest: dict[tuple[int, int | None], list[int]] = defaultdict(lambda: [0] * SEEN)
        """By topic and partition, the highest id of each state, which for a sent row is its shard."""

    # Rows ------------------------------------------------------------------------------------------

    def add_rows(self, rows: Sequence[ComparedRow], ends_at_ms: int) -> None:
        """Add rows for whose ids the table has room.

        Args:
            rows: in the range; those that are already in the table stay as they are.
            ends_at_ms: the time before the ends of the topics were determined, by the database's clock. A row that
                was marked sent later may have its record behind the end.
        """
        table, topics, hasher = self._table, self._topics, self._hasher
        for row in rows:
            topic = topics.get(row.topic)
            if topic is None:
                if table.add(row.id, REPORTED, 0, None):
                    self._verdict.rows += 1
                    self._verdict.found(Note.NOT_READ, Sample(row.id, row.topic))
                continue
            sent = row.shard is not None and row.sent_at_ms is not None and row.sent_at_ms < ends_at_ms
            state = row.shard + 1 if sent and row.shard is not None else UNSENT
            identity = hash((row.interaction_id.encode(), b"%d" % row.received_at_ms, topic)) & HASH_BITS
            content = hasher.of_row(row.pending) & HASH_BITS if hasher else None
            if table.add(row.id, state, identity, content):
                self._verdict.rows += 1

    # Records ---------------------------------------------------------------------------------------

    def add_records(self, topic: str, page: Sequence[Message]) -> None:
        """Compare records of a topic, in the order in which they were read."""
        found = self._match(self._topics[topic], topic, page)
        self._verdict.records += len(page)
        self._verdict.in_topic += len(found.seen_at)
        if found.late:
            self._judge_order(found)
        if found.changed:
            self._judge_changed(found.changed)
        if found.others:
            self._judge_others(found.others)

    def _match(self, topic_number: int, topic: str, page: Sequence[Message]) -> _Page:
        """Find the row of each record. This is the loop that limits the speed of a verification."""
        table, hasher, highest, found = self._table, self._hasher, self._highest, _Page()
        first, size, states, identities, contents = (
            table.first,
            len(table),
            table.states,
            table.identities,
            table.contents,
        )
        for index, message in enumerate(page):
            row_id, received = _row_of(message)
            place = row_id - first
            if (
                0 <= place < size
                and (state := states[place])
                and identities[place] == hash((message.key(), received, topic_number)) & HASH_BITS
            ):
                if state & SEEN:
                    self._verdict.found(Fault.DOUBLED, _sample(row_id, topic, message))
                    continue
                states[place] = state | SEEN
                found.seen_at[row_id] = index
                of_partition = highest[topic_number, message.partition()]
                if row_id > of_partition[state]:
                    of_partition[state] = row_id
                else:
                    found.late.append(_Late(index, _sample(row_id, topic, message)))
                if (
                    contents is not None
                    and hasher is not None
                    and contents[place] != (content := hasher.of_record(message.value() or b"", headers_of(message)))
                ):
                    found.changed.append(_Changed(row_id, content, _sample(row_id, topic, message)))
            elif self._concerns(message, received):
                found.others.append(_other(row_id, topic, message, received))
        return found

    def _concerns(self, message: Message, received: bytes) -> bool:
        """Whether a record of no row of the table was received or written in the range."""
        since, until = self._verdict.since_ms, self._verdict.until_ms
        received_at_ms = _milliseconds(received)
        return since <= message.timestamp()[1] < until or (
            received_at_ms is not None and since <= received_at_ms < until
        )

    # Findings --------------------------------------------------------------------------------------

    def _judge_order(self, page: _Page) -> None:
        """Count the late records that a later row of their interaction precedes."""
        late = {each.sample.id: each for each in page.late if each.sample.id is not None}
        behind = {
            row_id
            for row_id, later in self._outbox.later_ids(late, self._rules.topics[0])
            if self._table.is_seen(later) and page.seen_at.get(later, -1) < late[row_id].place
        }
        verbs = RESENT if self._rules.block_behind_parked else (*RESENT, RETRIED)
        resent = self._outbox.audited(behind, verbs) if behind else set()
        for row_id in sorted(behind):
            self._verdict.found(Note.REORDERED if row_id in resent else Fault.OUT_OF_ORDER, late[row_id].sample)

    def _judge_changed(self, changed: Sequence[_Changed]) -> None:
        """Count the records that differ from their row as it is now: it may have been completed since it was added."""
        ids, hasher = [each.id for each in changed], self._hasher
        now = {row.id: hasher.of_row(row.pending) & HASH_BITS for row in self._outbox.values(ids)} if hasher else {}
        erased = self._outbox.erased(ids)  # afterwards: none is erased between the two
        for row_id, content, sample in changed:
            if row_id not in now:
                self._verdict.found(Note.PRUNED, sample)
            elif now[row_id] != content:
                self._verdict.found(Note.ERASED if sample.id in erased else Fault.CHANGED, sample)

    def _judge_others(self, others: Sequence[_Other]) -> None:
        """Count the records that are not of this outbox, and those whose row may have been pruned."""
        ids = {other.id for other in others if other.id is not None}
        rows, pruned = self._outbox.identities(ids), self._outbox.audited(ids, PRUNED)
        first_row = self._outbox.first_row()
        for other in others:
            row = rows.get(other.id) if other.id is not None else None
            if row is None and (other.id in pruned or self._may_be_pruned(other, first_row)):
                self._verdict.found(Note.PRUNED, other.sample)
            elif row is None or not self._is_of(other, row.interaction_id, row.received_at_ms, row.topic):
                kind = Note.FOREIGN if self._rules.shared_topic else Fault.UNKNOWN
                self._verdict.found(kind, other.sample)

    def _may_be_pruned(self, other: _Other, first_row: tuple[int, int] | None) -> bool:
        if other.id is None or other.received_at_ms is None:
            return False
        if first_row is None or other.id < first_row[0]:
            return True
        kept_ms = self._rules.retention_ms
        return kept_ms is not None and other.received_at_ms < self._verdict.at_ms - kept_ms

    def _is_of(self, other: _Other, interaction_id: str, received_at_ms: int, topic: str | None) -> bool:
        expected = self._rules.topics[0] if topic is None else topic
        return (other.key, other.received_at_ms, other.sample.topic) == (interaction_id, received_at_ms, expected)


def _row_of(message: Message) -> tuple[int, bytes]:
    """Outbox id and time of receipt as a record's headers name them; -1: no id."""
    headers: Any = message.headers() or ()
    try:
        (name, row_id), (second, received) = headers[0], headers[1]  # as the encoder writes them
        if name != OUTBOX_ID or second != RECEIVED_AT:
            named = headers_of(message)
            row_id, received = named[OUTBOX_ID], named.get(RECEIVED_AT)
        return int(row_id), received or b""
    except (KeyError, ValueError, TypeError, IndexError):
        return -1, b""


def _milliseconds(received: bytes) -> int | None:
    """Time of receipt in a record's header; None: it is no time, whoever wrote it."""
    return int(received) if received.isdigit() and len(received) <= MAX_DIGITS else None


def _sample(row_id: int | None, topic: str, message: Message) -> Sample:
    return Sample(row_id, topic, message.partition(), message.offset())


def _other(row_id: int, topic: str, message: Message, received: bytes) -> _Other:
    known_id = row_id if 0 <= row_id < 2**63 else None
    key = (message.key() or b"").decode(errors="replace")
    return _Other(known_id, key, _milliseconds(received), _sample(known_id, topic, message))
