"""Compares the records of the topics with the rows of the outbox, page by page."""

from array import array
from bisect import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple
from zlib import crc32

from confluent_kafka import Message

from outbox.operators.verification import ComparedRow, OutboxReader, RowSent
from relay.kafka.record import OUTBOX_ID, RECEIVED_AT, headers_of, number_of
from relay.verify.content import ContentHasher
from relay.verify.row_table import HASH_BITS, PARTITION_BITS, REPORTED, SEEN, SENT, UNSENT, RowTable
from relay.verify.verdict import Fault, Note, Sample, Verdict

RESENT = ("send lost rows",)
"""Verbs of the audit after which a row is behind later ones of its interaction."""
RETRIED = ("retry",)
"""The same, where parked rows do not block later ones."""
PRUNED = ("prune",)
MARGIN_MS = 3_600_000
"""How far the clocks of relays, brokers and database may be apart."""
OVERLAP_MS = 30_000
"""How long a row may be received before it is committed: 10 s until the webhook answers at the latest, then 15 s until
PostgreSQL ends a statement, and a margin."""
MAX_OVERLAPPING = 100
"""Later rows of an interaction that may be sent before one that was posted at the same time."""
SLOTS = 1 << 14
"""For how many interactions of a partition the highest id that was read is held, 8 bytes each; those that share a slot
are distinguished by a query."""
ZERO = ord("0")
"""Begins no number that the encoder writes, but 0 itself."""


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
    """A record that came after one with a higher id, which probably is of the same interaction."""

    highest: int
    """That id."""
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
    key: bytes
    received_at_ms: int | None
    sample: Sample


@dataclass
class _Page:
    """What a page of records holds, and what has to be looked up for it."""

    ids: list[int] = field(default_factory=list)
    """Rows whose record was read, in the order of the page."""
    late: list[_Late] = field(default_factory=list)
    changed: list[_Changed] = field(default_factory=list)
    others: list[_Other] = field(default_factory=list)


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
        self._highest: dict[tuple[int, int], array[int]] = defaultdict(lambda: array("q", bytes(8 * SLOTS)))
        """By topic and partition, and then by a checksum of the interaction, the highest id whose record was read."""

    # Rows ------------------------------------------------------------------------------------------

    def add_rows(self, rows: Sequence[ComparedRow], ends_at_ms: int) -> None:
        """Add rows for whose ids the table has room.

        Args:
            rows: in the range; those that are already in the table stay as they are.
            ends_at_ms: the time before the ends of the topics were determined, by the database's clock. A row that
                was marked sent later may have its record behind the end.
        """
        first, states, identities, topics = self._table.first, self._table.states, self._table.identities, self._topics
        new = []
        for row_id, interaction_id, received_at_ms, topic, sent_at_ms in rows:
            place, number = row_id - first, topics.get(topic)
            if states[place]:
                continue
            new.append(row_id)
            if number is None:
                states[place] = REPORTED
                self._verdict.found(Note.NOT_READ, Sample(row_id, topic))
                continue
            states[place] = UNSENT if sent_at_ms is None or sent_at_ms >= ends_at_ms else SENT
            identities[place] = hash((interaction_id.encode(), b"%d" % received_at_ms, number)) & HASH_BITS
        self._verdict.rows += len(new)
        if self._hasher is not None and self._table.contents is not None:
            for row in self._outbox.values(new):
                self._table.contents[row.id - first] = self._hasher.of_row(row) & HASH_BITS

    # Records ---------------------------------------------------------------------------------------

    def add_records(self, topic: str, page: Sequence[Message]) -> None:
        """Compare records of a topic, in the order in which they were read."""
        found = self._match(topic, page)
        self._verdict.records += len(page)
        self._verdict.in_topic += len(found.ids)
        if found.late:
            self._judge_order(topic, found)
        if found.changed:
            self._judge_changed(found.changed)
        if found.others:
            self._judge_others(found.others)

    def _match(self, topic: str, page: Sequence[Message]) -> _Page:
        """Find the row of each record. This is the loop that limits the speed of a verification."""
        table, highest, number, found = self._table, self._highest, self._topics[topic], _Page()
        first, size, states, identities = table.first, len(table), table.states, table.identities
        partitions = table.partitions
        for message in page:
            row_id, received = _row_of(message)
            place, key = row_id - first, message.key() or b""
            if not (
                0 <= place < size
                and (state := states[place])
                and identities[place] == hash((key, received, number)) & HASH_BITS
            ):
                if self._concerns(message, received):
                    found.others.append(_other(row_id, topic, message, received))
                continue
            if state & SEEN:
                self._verdict.found(Fault.DOUBLED, _sample(row_id, topic, message))
                continue
            states[place] = state | SEEN
            partitions[place] = (partition := message.partition() or 0) & PARTITION_BITS
            found.ids.append(row_id)
            of_partition, slot = highest[number, partition], crc32(key) % SLOTS
            if row_id > of_partition[slot]:
                of_partition[slot] = row_id
            else:
                found.late.append(_Late(of_partition[slot], _sample(row_id, topic, message)))
            if self._hasher is not None:
                self._compare_content(row_id, topic, message, found)
        return found

    def _compare_content(self, row_id: int, topic: str, message: Message, found: _Page) -> None:
        """Note a record whose content is not what its row had when it was added."""
        hasher, contents = self._hasher, self._table.contents
        if hasher is None or contents is None:
            return
        content = hasher.of_record(message.value() or b"", headers_of(message))
        if contents[row_id - self._table.first] != content:
            found.changed.append(_Changed(row_id, content, _sample(row_id, topic, message)))

    def _concerns(self, message: Message, received: bytes) -> bool:
        """Whether a record of no row of the table was received or written in the range.

        Records of an hour before it are read, too. If the time of one is before that, it does not say when it was
        written: its producer has set it.
        """
        since, until = self._verdict.since_ms, self._verdict.until_ms
        received_at_ms, written_at_ms = number_of(received), message.timestamp()[1]
        was_written = written_at_ms < until and not since - MARGIN_MS <= written_at_ms < since
        return was_written or (received_at_ms is not None and since <= received_at_ms < until)

    # Findings --------------------------------------------------------------------------------------

    def _judge_order(self, topic: str, page: _Page) -> None:
        """Count the late records that were read after one of a later row of their interaction, in their partition."""
        late = {each.sample.id: each for each in page.late if each.sample.id is not None}
        bounds = (min(late), max(each.highest for each in page.late))
        interactions = self._outbox.same_interaction(late, bounds, topic, self._rules.topics[0])
        place = {row_id: index for index, row_id in enumerate(page.ids)}
        behind: dict[int, list[int]] = {}
        """By row, the later ones of its interaction that were read before."""
        for ids in interactions.values():
            read: dict[int, list[int]] = defaultdict(list)
            for row_id in sorted(filter(self._table.is_seen, ids), key=lambda row_id: place.get(row_id, -1)):
                of_partition = read[self._table.partition_of(row_id)]
                at = bisect(of_partition, row_id)
                if row_id in late and at < len(of_partition):
                    behind[row_id] = of_partition[at : at + MAX_OVERLAPPING + 1]
                of_partition.insert(at, row_id)
        excused = self._without_order(behind) if behind else set()
        for row_id in sorted(behind):
            self._verdict.found(Note.REORDERED if row_id in excused else Fault.OUT_OF_ORDER, late[row_id].sample)

    def _without_order(self, behind: Mapping[int, Sequence[int]]) -> set[int]:
        """Return those of these rows that may be behind the later ones that are given: sent again, or posted with them.

        Where rows become visible in the order of their ids, that they were posted at the same time excuses nothing.
        """
        resent, retried = (self._outbox.audited(behind, verbs) for verbs in (RESENT, RETRIED))
        overlapping: set[int] = set()
        if not self._outbox.commits_by_id:
            few = {row_id: later for row_id, later in behind.items() if len(later) <= MAX_OVERLAPPING}
            sent = {row.id: row for row in self._outbox.sent({*few, *chain.from_iterable(few.values())})}
            for row_id, later in few.items():
                if all(_overlap(sent.get(row_id), sent.get(each)) for each in later):
                    overlapping.add(row_id)
        if self._rules.block_behind_parked:
            return overlapping - retried | resent  # a parked row had been visible before later ones
        return overlapping | retried | resent

    def _judge_changed(self, changed: Sequence[_Changed]) -> None:
        """Count the records that differ from their row as it is now: it may have been completed since it was added."""
        ids, hasher = [each.id for each in changed], self._hasher
        now = {row.id: hasher.of_row(row) & HASH_BITS for row in self._outbox.values(ids)} if hasher else {}
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
        first_row, now_ms = self._outbox.first_row(), self._outbox.now_ms()  # rows go on being pruned meanwhile
        for other in others:
            row = rows.get(other.id) if other.id is not None else None
            if row is None and (other.id in pruned or self._may_be_pruned(other, first_row, now_ms)):
                self._verdict.found(Note.PRUNED, other.sample)
            elif row is None or not self._is_of(other, row.interaction_id, row.received_at_ms, row.topic):
                kind = Note.FOREIGN if self._rules.shared_topic else Fault.UNKNOWN
                self._verdict.found(kind, other.sample)

    def _may_be_pruned(self, other: _Other, first_row: tuple[int, int] | None, now_ms: int) -> bool:
        if other.id is None or other.received_at_ms is None:
            return False
        if first_row is None or other.id < first_row[0]:
            return True
        kept_ms = self._rules.retention_ms
        return kept_ms is not None and other.received_at_ms < now_ms - kept_ms

    def _is_of(self, other: _Other, interaction_id: str, received_at_ms: int, topic: str | None) -> bool:
        expected = self._rules.topics[0] if topic is None else topic
        identity = (interaction_id.encode(), received_at_ms, expected)
        return (other.key, other.received_at_ms, other.sample.topic) == identity


def _overlap(row: RowSent | None, later: RowSent | None) -> bool:
    """Whether a row was committed when a later one had been sent already, so that their requests overlapped.

    Whatever was committed before is sent in the same transaction, or an earlier one. A row that is not marked yet is of
    the shard's last transaction.
    """
    if row is None or later is None or later.sequence is None or row.shard not in (None, later.shard):
        return False
    is_later = row.sequence is None or row.sequence > later.sequence
    return is_later and abs(later.received_at_ms - row.received_at_ms) < OVERLAP_MS


def _row_of(message: Message) -> tuple[int, bytes]:
    """Outbox id and time of receipt as a record's headers name them; -1: no id that the encoder would have written.

    It reads the id as ``number_of`` does, but without a call, which would double the time that this takes.
    """
    try:
        headers: Any = message.headers() or ()
        named = dict(headers)  # of a header that is repeated the last one counts, as for consumers
        row_id, received = named[OUTBOX_ID], named.get(RECEIVED_AT) or b""
        return (int(row_id) if row_id.isdigit() and (row_id[0] != ZERO or row_id == b"0") else -1), received
    except (KeyError, ValueError, AttributeError, SystemError):  # SystemError: as headers_of has it
        return -1, b""


def _sample(row_id: int | None, topic: str, message: Message) -> Sample:
    return Sample(row_id, topic, message.partition(), message.offset())


def _other(row_id: int, topic: str, message: Message, received: bytes) -> _Other:
    known_id = row_id if 0 <= row_id < 2**63 else None
    return _Other(known_id, message.key() or b"", number_of(received), _sample(known_id, topic, message))
