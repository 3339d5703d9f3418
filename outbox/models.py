"""Rows as the rest of the product sees them: frozen values, no I/O."""

import secrets
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from outbox.partitioner import interaction_hash

INT64_MAX = 2**63 - 1
ERASED_PAYLOAD = b""
"""What is left of a body whose person was erased; no accepted body is empty."""


def shard_of(interaction_id: str, shards: int) -> int:
    """The shard, 0 to ``shards - 1``, that keeps every row of this interaction in order."""
    return interaction_hash(interaction_id) % shards


class NewRow(NamedTuple):
    """A validated interaction on its way into the outbox."""

    key: str
    """Deduplication key, unique among the rows that the outbox holds."""
    interaction_id: str
    channel: str
    timestamp_ms: int
    """Milliseconds since the epoch, 0 to 2**63 - 1."""
    customer_email: str | None
    agent_id: str | None
    payload: bytes
    """The request body, byte for byte."""
    traceparent: str | None = None


class Accepted(NamedTuple):
    """The row is committed (``duplicate``: it already was, by an earlier delivery)."""

    outbox_id: int
    interaction_id: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The key belongs to a row with another body; nothing was stored."""


@dataclass(frozen=True, slots=True)
class RowRefused:
    """The database cannot store this one row; its neighbours are not affected."""

    reason: str
    """The kind of database error: no value of the row is in it."""


RecordOutcome = Accepted | KeyReused | RowRefused


def new_nonce() -> int:
    """A row's tag: random, signed 64 bit."""
    return secrets.randbits(64) - 2**63


class RowRef(NamedTuple):
    """Names a row beyond doubt: ids can be handed out again by a restored database, tags cannot."""

    id: int
    nonce: int
    """Random, signed 64 bit."""


class RecordRef(NamedTuple):
    """Names a shard's progress record beyond doubt: a broker that went back in time can write its sequence again."""

    sequence: int
    offset: int
    """In the shard's partition of the progress topic."""
    digest: str
    """SHA-256 of its value."""


class PendingRow(NamedTuple):
    """What the relay needs of a row to send it. The raw payload stays in the database."""

    id: int
    nonce: int
    interaction_id: str
    channel: str
    timestamp_ms: int
    customer_email: str | None
    agent_id: str | None
    traceparent: str | None
    replay_of: int | None
    received_at_ms: int
    enriched_at_ms: int | None = None
    """When it was completed from CXone, be it with nothing; None: never."""
    topic: str | None = None
    """Where a replay goes; None: the usual topic."""

    @property
    def ref(self) -> RowRef:
        """Id and tag."""
        return RowRef(self.id, self.nonce)

    @property
    def incomplete(self) -> bool:
        """Whether it lacks something that CXone may know, and has not told."""
        return self.enriched_at_ms is None and (self.customer_email is None or self.agent_id is None)


class EnrichedFields(NamedTuple):
    """What CXone knows of an interaction."""

    customer_email: str | None
    agent_id: str | None


class Lease(NamedTuple):
    """The right to send a shard's rows, as taken from the database."""

    shard: int
    owner: str
    epoch: int
    """One more at each taking; whoever knows a smaller one has lost the lease."""
    acknowledged_sequence: int
    """Sequence of the last Kafka transaction whose rows are marked."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which outbox this is, and what it was used with (None: not used with any yet)."""

    outbox_id: str
    shards: int
    topic: str | None
    progress_topic: str | None
    transactional_id_prefix: str | None
    cluster_id: str | None


class ShardStatus(NamedTuple):
    """A shard as operators see it."""

    shard: int
    owner: str | None
    epoch: int
    lease_remaining_ms: int
    """Negative or zero: nobody holds it."""
    acknowledged_sequence: int
    rows_per_second: float
    """As its owner last measured it."""
    condition: str | None
    """Why the shard does not move, with the cure; None while all is well."""
    pending: int
    """Rows to send, the waiting ones included."""
    waiting: int
    """Of those, the ones behind a parked row of their interaction."""
    parked: int
    discarded: int
    oldest_age_ms: int | None
    """Age of the oldest pending row; None without one."""
    paused_by: str | None
    """Who paused it; None: it is not paused."""
    paused_reason: str | None
    paused_until_ms: int | None
    """When the pause ends by itself, milliseconds since the epoch; None: it does not."""


class CallsLeft(NamedTuple):
    """How many inference calls are not done."""

    due: int
    parked: int


class RelayMember(NamedTuple):
    """A relay among which the shards are shared."""

    owner: str
    healthy: bool
    """Whether it gets on with at least one of its shards, or has none."""
    live: bool
    """Whether its heartbeat has not run out."""


class ShardAssignment(NamedTuple):
    """A shard as the relays see it that share them."""

    shard: int
    owner: str | None
    held: bool
    """Whether the owner's lease has not run out."""
    paused_by: str | None
    paused_reason: str | None


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """A call that is due, as claimed by a worker."""

    row_id: int
    interaction_id: str
    timestamp_ms: int
    traceparent: str | None
    attempts: int
    """Attempts already made and charged."""
    claimed_until_ms: int
    """When the claim runs out, by the database's clock: with its owner, the claim's name."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """What became of a claimed call."""

    row_id: int
    state: str
    """A ``CallState``."""
    attempts: int
    """Charged so far."""
    status: int | None
    """HTTP status of the last answer; None when there was none."""
    error: str | None
    """What went wrong, without values of the row; None after success."""
    latency_ms: int | None
    wait_ms: int
    """With ``due``: how long to wait."""
    claimed_until_ms: int
    """As it was claimed."""
    tried: bool = True
    """False: given back as it was."""


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows an operator means. Conditions that are given must all hold; none given: every row."""

    ids: tuple[int, ...] = ()
    interaction_id: str | None = None
    state: str | None = None
    """A ``RowState``."""
    channel: str | None = None
    error: str | None = None
    """A part of the row's error, upper and lower case alike."""
    since_ms: int | None = None
    """Received at this moment or later, milliseconds since the epoch."""
    until_ms: int | None = None
    """Received before this moment."""
    email: str | None = None
    """The customer's address, or one that stands anywhere in the body; for ``erasable`` alone."""


class PlannedRow(NamedTuple):
    """A row as it was when an operator was shown it. Any later change by hand makes another of it."""

    id: int
    nonce: int
    changed_at_ms: int
    """0 if it never was parked, retried or discarded."""


class FoundRow(NamedTuple):
    """A row as operators see it: what it is about, nothing of its content."""

    id: int
    nonce: int
    shard: int
    state: str
    interaction_id: str
    channel: str
    received_at_ms: int
    sent_at_ms: int | None
    replay_of: int | None
    error: str | None
    topic: str | None
    """Where it goes, if not to the usual topic."""
    changed_at_ms: int
    """When it was last parked, retried or discarded; 0: never."""

    @property
    def ref(self) -> RowRef:
        """Id and tag."""
        return RowRef(self.id, self.nonce)

    @property
    def planned(self) -> PlannedRow:
        """The row as it is now."""
        return PlannedRow(self.id, self.nonce, self.changed_at_ms)


class Plan:
    """Exactly the rows that an operator was shown, at 24 bytes a row.

    Args:
        rows: as they were found, in id order.

    Attributes:
        sample: the first of them.
        states: how many are in which state.
        replays: how many are replays themselves.
    """

    SAMPLE_ROWS = 5

    def __init__(self, rows: Iterable[FoundRow]) -> None:
        self._columns = tuple(array("q") for _ in PlannedRow._fields)
        self.sample: list[FoundRow] = []
        self.states: Counter[str] = Counter()
        self.replays = 0
        for row in rows:
            for column, value in zip(self._columns, row.planned, strict=True):
                column.append(value)
            if len(self.sample) < self.SAMPLE_ROWS:
                self.sample.append(row)
            self.states[row.state] += 1
            self.replays += row.replay_of is not None

    def __len__(self) -> int:
        return len(self._columns[0])

    def chunks(self, size: int) -> Iterator[list[PlannedRow]]:
        """The rows in order, so many at a time."""
        for start in range(0, len(self), size):
            parts = (column[start : start + size] for column in self._columns)
            yield [PlannedRow._make(values) for values in zip(*parts, strict=True)]


class ErrorGroup(NamedTuple):
    """Parked rows that look like one problem."""

    error: str
    """The error, with its numbers replaced by ``#``."""
    rows: int
    oldest_at_ms: int
    """When the first of them was parked."""
    age_ms: int
    """Since then, by the database's clock."""


@dataclass(frozen=True, slots=True)
class AuditContext:
    """Who wants a change, and why: it goes into the audit with the change."""

    actor: str
    reason: str
    rows: RowFilter
    """What the operator asked for; the change acts on the rows that were found by it."""
    pseudonym_key: bytes | None = field(default=None, repr=False)
    """With it, values of the filter that may name a person go on record as pseudonyms; without, not at all."""


class AuditEntry(NamedTuple):
    """One change by an operator."""

    id: int
    at_ms: int
    actor: str
    verb: str
    filter: str
    """JSON of the conditions; values that may name a person are pseudonyms, or are left out."""
    reason: str
    row_ids: str
    """JSON list of the rows that were changed."""
    hash: str
    os_user: str | None = None
    """User of the process that wrote it, whatever the actor said; None: of a release before it was kept."""
