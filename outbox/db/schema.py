"""Tables, CHECK constraints and partial indexes, so that the cost of work follows the backlog, not history.

The migrations build the same schema step by step; a test compares the two. Times are milliseconds since the epoch by
the database's clock, so that all processes use one clock.
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
    Column("key", Text, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("interaction_id", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("customer_email", Text),
    Column("agent_id", Text),
    Column("payload", LargeBinary, nullable=False),
    Column("traceparent", Text),
    Column("replay_of", BigInteger),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("error", Text),
    Column("received_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    Column("sequence", BigInteger),
    Column("enriched_at", BigInteger),
    Column("topic", Text),
    Column("changed_at", BigInteger),
    Column("payload_digest", LargeBinary),
    CheckConstraint("state IN ('pending', 'sent', 'parked', 'discarded')", name="state_known"),
    CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name="sent_has_time"),
    CheckConstraint("(state = 'sent') = (sequence IS NOT NULL)", name="sent_has_sequence"),
    CheckConstraint("state <> 'parked' OR error IS NOT NULL", name="parked_has_error"),
    CheckConstraint("timestamp_ms >= 0", name="timestamp_positive"),
    Index("ix_outbox_key", "key", unique=True),
    Index(
        "ix_outbox_pending",
        "shard",
        "id",
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
    Index(
        "ix_outbox_parked",
        "shard",
        "interaction_id",
        "id",
        postgresql_where=text("state = 'parked'"),
        sqlite_where=text("state = 'parked'"),
    ),
    Index("ix_outbox_interaction", "interaction_id"),
    Index(
        "ix_outbox_parked_order",
        "shard",
        "id",
        postgresql_where=text("state = 'parked'"),
        sqlite_where=text("state = 'parked'"),
    ),
    Index(
        "ix_outbox_replay_of",
        "replay_of",
        postgresql_where=text("replay_of IS NOT NULL"),
        sqlite_where=text("replay_of IS NOT NULL"),
    ),
    Index(
        "ix_outbox_discarded",
        "shard",
        "id",
        postgresql_where=text("state = 'discarded'"),
        sqlite_where=text("state = 'discarded'"),
    ),
    # A pruned table must not assign old ids again.
    sqlite_autoincrement=True,
)
"""A row for each interaction, from its acceptance until it is pruned.

``topic``: the topic of a replay; NULL: the configured topic. ``changed_at``: when the row was last parked, retried or
discarded. ``payload``: empty after personal data was erased. ``payload_digest``: SHA-256 of the body, which shows
whether a repeated key has the same body; NULL: erased, or stored by an earlier release."""

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
    Column("progress_sequence", BigInteger),
    Column("progress_offset", BigInteger),
    Column("progress_digest", Text),
)
"""The lease of each shard, and its last Kafka transaction whose rows are marked.

``progress_…``: the progress record of that transaction. It is valid only while ``progress_sequence`` equals
``acknowledged_sequence``: the previous release updates only the latter."""

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
    Column("os_user", Text),
    sqlite_autoincrement=True,
)
"""What operators did; each entry is written in the transaction of its change. ``hash`` covers the entry and the hash
before it. ``actor`` is a name that the operator gave, ``os_user`` the user of the process; NULL: an earlier release
wrote the entry."""
