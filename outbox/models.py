"""The values that the outbox exchanges with its users: immutable, without I/O."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import NamedTuple

from outbox.partitioner import interaction_hash

INT64_MAX = 2**63 - 1
ERASED_PAYLOAD = b""
"""Replaces a body that was erased; no accepted body is empty."""


def shard_of(interaction_id: str, shards: int) -> int:
    """Return the shard, 0 to ``shards - 1``, that keeps all rows of this interaction in order."""
    return interaction_hash(interaction_id) % shards


def body_digest(body: bytes) -> bytes:
    """Return the SHA-256 of a body, its deduplication key unless its sender chose one."""
    return hashlib.sha256(body).digest()


def chosen_key(key: str) -> bytes:
    """Return the deduplication key of an ``Idempotency-Key``: 32 bytes, from which the sender's text cannot be read."""
    return hashlib.sha256(f"key:{key}".encode()).digest()


def replay_key(plan: str, row_id: int) -> bytes:
    """Return the deduplication key of the row that a plan makes of a row: a plan replays a row once."""
    return hashlib.sha256(f"replay:{plan}:{row_id}".encode()).digest()


class NewRow(NamedTuple):
    """A validated interaction on its way into the outbox."""

    key: bytes
    """Deduplication key, unique in the outbox: 32 bytes, from ``body_digest`` or ``chosen_key``. No body has the digest
    of a chosen key: a body is a JSON object."""
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
    """The row is committed; ``duplicate``: by an earlier delivery."""

    outbox_id: int
    interaction_id: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The key belongs to a row with another body; nothing was stored."""


@dataclass(frozen=True, slots=True)
class RowRefused:
    """The database cannot store this row; the others of its batch are not affected."""

    reason: str
    """The kind of database error, without values of the row."""


RecordOutcome = Accepted | KeyReused | RowRefused


def new_nonce() -> int:
    """Return a random, signed 64-bit number for a new row."""
    return secrets.randbits(64) - 2**63


class RowRef(NamedTuple):
    """Identifies a row, also across restores: a restored database assigns ids again, but never a nonce."""

    id: int
    nonce: int
    """Random, signed 64-bit."""


class RecordRef(NamedTuple):
    """Identifies a progress record: after a broker went back in time, its sequence can be written again."""

    sequence: int
    offset: int
    """In the shard's partition of the progress topic."""
    digest: str
    """SHA-256 of its value."""


class PendingRow(NamedTuple):
    """What the relay needs to send a row. The payload stays in the database."""

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
    """When CXone was asked for missing fields, even if it returned none; None: never."""
    topic: str | None = None
    """The topic of a replay; None: the configured topic."""

    @property
    def ref(self) -> RowRef:
        """Id and nonce."""
        return RowRef(self.id, self.nonce)

    @property
    def incomplete(self) -> bool:
        """Whether it lacks a field that CXone has not been asked for."""
        return self.enriched_at_ms is None and (self.customer_email is None or self.agent_id is None)


class EnrichedFields(NamedTuple):
    """The fields of an interaction that CXone returned."""

    customer_email: str | None
    agent_id: str | None


class Lease(NamedTuple):
    """The right to send a shard's rows, as taken from the database."""

    shard: int
    owner: str
    epoch: int
    """Incremented each time the shard is taken; a relay with a smaller epoch has lost the lease."""
    acknowledged_sequence: int
    """Sequence of the last Kafka transaction whose rows are marked."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which outbox this is, and what it is used with; None: not used yet."""

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
    """Zero or negative: the lease has expired."""
    acknowledged_sequence: int
    rows_per_second: float
    """As last measured by its owner."""
    condition: str | None
    """Why the shard does not move, with the remedy; None: it does."""
    pending: int
    """Rows to send, including waiting ones."""
    waiting: int
    """Pending rows behind a parked row of their interaction."""
    parked: int
    discarded: int
    oldest_age_ms: int | None
    """Age of the oldest pending row; None without one."""
    paused_by: str | None
    """Who paused it; None: it is not paused."""
    paused_reason: str | None
    paused_until_ms: int | None
    """When the pause ends by itself, in milliseconds since the epoch; None: it does not."""

    @property
    def is_owned(self) -> bool:
        """Whether a relay owns it: a shard whose lease has expired has no owner."""
        return self.owner is not None and self.lease_remaining_ms > 0


class CallCounts(NamedTuple):
    """The number of inference calls that are not done."""

    due: int
    parked: int


class StoredVerdict(NamedTuple):
    """The last result of ``relay verify``."""

    at_ms: int
    since_ms: int
    """Rows received from this time on were compared."""
    until_ms: int
    """Not included."""
    values: bool
    """Whether the content of records was compared."""
    rows: int
    faults: dict[str, int]
    """Number of faults by kind, without kinds that were not found."""


class RelayMember(NamedTuple):
    """One of the relays that share the shards."""

    owner: str
    healthy: bool
    """Whether at least one of its shards works, or it has none."""
    live: bool
    """Whether its heartbeat has not expired."""


class ShardAssignment(NamedTuple):
    """A shard as the relays see it."""

    shard: int
    owner: str | None
    leased: bool
    """Whether the owner's lease has not expired."""
    paused_by: str | None
    paused_reason: str | None


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """A call that a worker has claimed."""

    row_id: int
    interaction_id: str
    timestamp_ms: int
    traceparent: str | None
    attempts: int
    """Attempts counted so far."""
    claimed_until_ms: int
    """When the claim expires, by the database's clock; with its owner, this identifies the claim."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of a claimed call."""

    row_id: int
    state: str
    """A ``CallState``."""
    attempts: int
    """Attempts counted so far."""
    status: int | None
    """HTTP status of the last response; None: there was none."""
    error: str | None
    """What failed, without values of the row; None after success."""
    latency_ms: int | None
    wait_ms: int
    """For ``due``: the delay before the next attempt."""
    claimed_until_ms: int
    """As claimed."""
    tried: bool = True
    """False: the call was given back without an attempt."""
