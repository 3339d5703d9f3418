"""Tables, CHECK constraints and partial indexes, so that the cost of work follows the backlog, not history.

An interaction is stored once and not updated on its way: the state of a row is which table has its id. The view
``outbox_rows``, which the migration creates, shows each row with its state.

The migrations build the same schema; a test compares the two. Times are milliseconds since the epoch by the database's
clock, so that all processes use one clock.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

_Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite's row id is 64-bit, but its type must be INTEGER

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("nonce", BigInteger, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("interaction_hash", Integer, nullable=False),
    Column("interaction_id", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("customer_email", Text),
    Column("agent_id", Text),
    Column("payload", LargeBinary, nullable=False),
    Column("payload_digest", LargeBinary),
    Column("traceparent", Text),
    Column("replay_of", BigInteger),
    Column("replay_plan", Text),
    Column("topic", Text),
    Column("received_at", BigInteger, nullable=False),
    Column("enriched_at", BigInteger),
    CheckConstraint("timestamp_ms >= 0", name="timestamp_positive"),
    CheckConstraint("interaction_hash >= 0", name="hash_positive"),
    CheckConstraint("length(key) = 32", name="key_is_digest"),
    CheckConstraint("(replay_of IS NULL) = (replay_plan IS NULL)", name="replay_has_plan"),
    Index("ix_outbox_key", "key", unique=True),
    Index("ix_outbox_interaction", "interaction_id"),
    Index(
        "ix_outbox_replay_of",
        "replay_of",
        postgresql_where=text("replay_of IS NOT NULL"),
        sqlite_where=text("replay_of IS NOT NULL"),
    ),
    # A pruned table must not assign old ids again.
    sqlite_autoincrement=True,
)
"""A row for each interaction, from its acceptance until it is pruned. Only enrichment and erasure change a row: its
state is which of the next three tables has its id.

``key``: the deduplication key, a SHA-256 digest (``outbox.models``). ``interaction_hash``: of the interaction's id; the
shard is its remainder by the number of shards. ``payload``: empty after personal data was erased. ``payload_digest``:
SHA-256 of the body under a key that the sender chose, which shows whether a repeated key has the same body; NULL: the
key is that digest itself, or the body was erased. ``topic``: the topic of a replay; NULL: the configured topic."""

outbox_pending = Table(
    "outbox_pending",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("nonce", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The rows to send. The statement that inserts a row adds it here; on SQLite a trigger does."""

outbox_sent = Table(
    "outbox_sent",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("sent_at", BigInteger, nullable=False),
)
"""The rows that are in the topic, with the shard that sent them and the sequence of their Kafka transaction."""

outbox_parked = Table(
    "outbox_parked",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("nonce", BigInteger, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("interaction_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('parked', 'discarded')", name="state_known"),
    Index("ix_outbox_parked_state", "shard", "state", "id"),
    Index(
        "ix_outbox_parked_interaction",
        "shard",
        "interaction_id",
        "id",
        postgresql_where=text("state = 'parked'"),
        sqlite_where=text("state = 'parked'"),
    ),
)
"""The rows that Kafka or the encoder rejected, until they are retried, and those that an operator discarded.
``changed_at``: when the row was parked or discarded."""

outbox_identity = Table(
    "outbox_identity",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("outbox_id", Text, nullable=False),
    Column("shards", SmallInteger, nullable=False),
    Column("topic", Text),
    Column("progress_topic", Text),
    Column("transactional_id_prefix", Text),
    Column("cluster_id", Text),
    CheckConstraint("id = 1", name="one_row"),
    CheckConstraint("shards BETWEEN 1 AND 99", name="shards_in_range"),
)
"""Which outbox this is and what it is used with, so that a mismatch is found before it does harm."""

outbox_shard = Table(
    "outbox_shard",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("owner", Text),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("lease_expires_at", BigInteger, nullable=False, server_default="0"),
    Column("acknowledged_sequence", BigInteger, nullable=False, server_default="0"),
    Column("rows_per_second", Float, nullable=False, server_default="0"),
    Column("condition", Text),
    Column("progress_offset", BigInteger),
    Column("progress_digest", Text),
)
"""The lease of each shard, and its last Kafka transaction whose rows are marked.

``progress_offset``, ``progress_digest``: of that transaction's progress record; NULL: Kafka has lost it."""

outbox_relay = Table(
    "outbox_relay",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("joined_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("healthy", SmallInteger, nullable=False),
)
"""The relays that share the shards, each until its heartbeat expires."""

outbox_pause = Table(
    "outbox_pause",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("until", BigInteger),
)
"""Shards that no relay may send: who paused them, why, and until when (NULL: until resumed)."""

outbox_inference_call = Table(
    "outbox_inference_call",
    metadata,
    Column("row_id", BigInteger, primary_key=True, autoincrement=False),
    Column("interaction_id", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="due"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", BigInteger, nullable=False),
    Column("claimed_by", Text),
    Column("status", Integer),
    Column("error", Text),
    Column("latency_ms", Integer),
    CheckConstraint("state IN ('due', 'done', 'parked')", name="state_known"),
    CheckConstraint("state <> 'parked' OR error IS NOT NULL", name="parked_has_error"),
    Index(
        "ix_outbox_inference_call_due",
        "due_at",
        postgresql_where=text("state = 'due'"),
        sqlite_where=text("state = 'due'"),
    ),
    Index(
        "ix_outbox_inference_call_order",
        "interaction_id",
        "row_id",
        postgresql_where=text("state = 'due'"),
        sqlite_where=text("state = 'due'"),
    ),
    Index(
        "ix_outbox_inference_call_parked",
        "row_id",
        postgresql_where=text("state = 'parked'"),
        sqlite_where=text("state = 'parked'"),
    ),
)
"""The inference call of each sent row; it never affects the state of the row.

A claim sets ``claimed_by``, and ``due_at`` to the time at which the claim expires: a dead worker's calls become due
again by themselves."""

outbox_verification = Table(
    "outbox_verification",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("with_values", SmallInteger, nullable=False),
    Column("compared", BigInteger, nullable=False),
    Column("faults", Text, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""The last verdict of ``relay verify``: when it was given, on the rows received in which time, whether contents were
compared, how many rows there were, and the number of faults by kind, as JSON."""

outbox_audit = Table(
    "outbox_audit",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("filter", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("row_ids", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("os_user", Text, nullable=False),
    sqlite_autoincrement=True,
)
"""What operators did; each entry is written in the transaction of its change. ``hash`` covers the entry and the hash
before it. ``actor`` is a name that the operator gave, ``os_user`` the user of the process."""

outbox_audit_row = Table(
    "outbox_audit_row",
    metadata,
    Column("row_id", BigInteger, primary_key=True, autoincrement=False),
    Column("entry_id", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
"""The audit entries of each row, to find them; what an entry covers is in the entry. The statement that adds an entry
adds its rows here; on SQLite a trigger does."""
