"""Create the outbox, the tables of its rows' states, its shards, the inference calls and the audit log."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

AUTOVACUUM = """
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02
"""
"""Every row leaves a dead entry among the pending ones, and pruning leaves free space: vacuum early."""

ADD_TO_PENDING = """
    CREATE TRIGGER outbox_row_is_pending AFTER INSERT ON outbox BEGIN
        INSERT INTO outbox_pending (shard, id, nonce)
        SELECT NEW.interaction_hash % shards, NEW.id, NEW.nonce FROM outbox_identity;
    END
"""
"""SQLite cannot insert into two tables with one statement, as PostgreSQL does."""

LIST_AUDITED_ROWS = """
    CREATE TRIGGER outbox_audit_lists_rows AFTER INSERT ON outbox_audit BEGIN
        INSERT INTO outbox_audit_row (row_id, entry_id) SELECT DISTINCT value, NEW.id FROM json_each(NEW.row_ids);
    END
"""

ROWS = {
    "postgresql": """
    CREATE VIEW outbox_rows AS
    SELECT o.id, o.nonce, coalesce(w.shard, s.shard, p.shard) AS shard,
           CASE WHEN w.id IS NOT NULL THEN 'pending' WHEN s.id IS NOT NULL THEN 'sent' ELSE p.state END AS state,
           o.interaction_id, o.channel, o.timestamp_ms, o.traceparent, o.replay_of, o.replay_plan, o.topic,
           o.received_at, o.enriched_at, s.sent_at, s.sequence, p.error, p.changed_at,
           o.customer_email IS NOT NULL AS has_customer, o.agent_id IS NOT NULL AS has_agent,
           length(o.payload) AS payload_bytes
    FROM outbox AS o
    LEFT JOIN LATERAL (
        SELECT shard, id FROM outbox_pending
        WHERE shard = o.interaction_hash % (SELECT shards FROM outbox_identity) AND id = o.id LIMIT 1
    ) AS w ON true
    LEFT JOIN LATERAL (SELECT * FROM outbox_sent WHERE id = o.id LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT * FROM outbox_parked WHERE id = o.id LIMIT 1) AS p ON true
    """,
    "sqlite": """
    CREATE VIEW outbox_rows AS
    SELECT o.id, o.nonce, coalesce(w.shard, s.shard, p.shard) AS shard,
           CASE WHEN w.id IS NOT NULL THEN 'pending' WHEN s.id IS NOT NULL THEN 'sent' ELSE p.state END AS state,
           o.interaction_id, o.channel, o.timestamp_ms, o.traceparent, o.replay_of, o.replay_plan, o.topic,
           o.received_at, o.enriched_at, s.sent_at, s.sequence, p.error, p.changed_at,
           o.customer_email IS NOT NULL AS has_customer, o.agent_id IS NOT NULL AS has_agent,
           length(o.payload) AS payload_bytes
    FROM outbox AS o
    LEFT JOIN outbox_pending AS w
      ON w.shard = o.interaction_hash % (SELECT shards FROM outbox_identity) AND w.id = o.id
    LEFT JOIN outbox_sent AS s ON s.id = o.id
    LEFT JOIN outbox_parked AS p ON p.id = o.id
    """,
}
"""Each row with its state; of its personal data only whether it has some. Looked up by id, interaction or a range of
ids, it reads only what it returns: each row's state is looked up by its id. PostgreSQL would otherwise merge the tables
from their beginning, whichever range is asked for, and SQLite, if it joined the identity, would sort a range to return
its first rows."""


def upgrade() -> None:
    _create_identity_and_shards()
    _create_outbox()
    _create_states()
    _create_relays_and_pauses()
    _create_inference_calls()
    _create_verification()
    _create_audit()
    op.execute(ROWS[op.get_bind().dialect.name])
    if op.get_bind().dialect.name == "postgresql":
        for table in ("outbox", "outbox_pending", "outbox_inference_call"):
            op.execute(f"ALTER TABLE {table} SET ({AUTOVACUUM})")
    else:
        op.execute(ADD_TO_PENDING)
        op.execute(LIST_AUDITED_ROWS)


def _create_identity_and_shards() -> None:
    shards = op.get_context().opts["shards"]
    identity = op.create_table(
        "outbox_identity",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("outbox_id", sa.Text, nullable=False),
        sa.Column("shards", sa.SmallInteger, nullable=False),
        sa.Column("topic", sa.Text),
        sa.Column("progress_topic", sa.Text),
        sa.Column("transactional_id_prefix", sa.Text),
        sa.Column("cluster_id", sa.Text),
        sa.CheckConstraint("id = 1", name=op.f("ck_outbox_identity_one_row")),
        sa.CheckConstraint("shards BETWEEN 1 AND 99", name=op.f("ck_outbox_identity_shards_in_range")),
    )
    op.bulk_insert(identity, [{"id": 1, "outbox_id": str(uuid.uuid4()), "shards": shards}])
    shard = op.create_table(
        "outbox_shard",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.Text),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("lease_expires_at", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("acknowledged_sequence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("rows_per_second", sa.Float, nullable=False, server_default="0"),
        sa.Column("condition", sa.Text),
        sa.Column("progress_offset", sa.BigInteger),
        sa.Column("progress_digest", sa.Text),
    )
    op.bulk_insert(shard, [{"shard": number} for number in range(shards)])


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", _Id, sa.Identity(), primary_key=True),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("interaction_hash", sa.Integer, nullable=False),
        sa.Column("interaction_id", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
        sa.Column("customer_email", sa.Text),
        sa.Column("agent_id", sa.Text),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("payload_digest", sa.LargeBinary),
        sa.Column("traceparent", sa.Text),
        sa.Column("replay_of", sa.BigInteger),
        sa.Column("replay_plan", sa.Text),
        sa.Column("topic", sa.Text),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("enriched_at", sa.BigInteger),
        sa.CheckConstraint("timestamp_ms >= 0", name=op.f("ck_outbox_timestamp_positive")),
        sa.CheckConstraint("interaction_hash >= 0", name=op.f("ck_outbox_hash_positive")),
        sa.CheckConstraint("length(key) = 32", name=op.f("ck_outbox_key_is_digest")),
        sa.CheckConstraint("(replay_of IS NULL) = (replay_plan IS NULL)", name=op.f("ck_outbox_replay_has_plan")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_key", "outbox", ["key"], unique=True)
    op.create_index("ix_outbox_interaction", "outbox", ["interaction_id"])
    _partial_index("ix_outbox_replay_of", "outbox", ["replay_of"], "replay_of IS NOT NULL")


def _create_states() -> None:
    op.create_table(
        "outbox_pending",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outbox_sent",
        sa.Column("id", _Id, primary_key=True, autoincrement=False),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("sent_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "outbox_parked",
        sa.Column("id", _Id, primary_key=True, autoincrement=False),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("interaction_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("state IN ('parked', 'discarded')", name=op.f("ck_outbox_parked_state_known")),
    )
    op.create_index("ix_outbox_parked_state", "outbox_parked", ["shard", "state", "id"])
    _partial_index(
        "ix_outbox_parked_interaction", "outbox_parked", ["shard", "interaction_id", "id"], "state = 'parked'"
    )


def _create_relays_and_pauses() -> None:
    op.create_table(
        "outbox_relay",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("joined_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("healthy", sa.SmallInteger, nullable=False),
    )
    op.create_table(
        "outbox_pause",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger),
    )


def _create_inference_calls() -> None:
    table = "outbox_inference_call"
    op.create_table(
        table,
        sa.Column("row_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("interaction_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="due"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("claimed_by", sa.Text),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("latency_ms", sa.Integer),
        sa.CheckConstraint("state IN ('due', 'done', 'parked')", name=op.f("ck_outbox_inference_call_state_known")),
        sa.CheckConstraint(
            "state <> 'parked' OR error IS NOT NULL", name=op.f("ck_outbox_inference_call_parked_has_error")
        ),
    )
    _partial_index("ix_outbox_inference_call_due", table, ["due_at"], "state = 'due'")
    _partial_index("ix_outbox_inference_call_order", table, ["interaction_id", "row_id"], "state = 'due'")
    _partial_index("ix_outbox_inference_call_parked", table, ["row_id"], "state = 'parked'")


def _create_verification() -> None:
    op.create_table(
        "outbox_verification",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("with_values", sa.SmallInteger, nullable=False),
        sa.Column("compared", sa.BigInteger, nullable=False),
        sa.Column("faults", sa.Text, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_outbox_verification_one_row")),
    )


def _create_audit() -> None:
    op.create_table(
        "outbox_audit",
        sa.Column("id", _Id, sa.Identity(), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("filter", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("row_ids", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("os_user", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "outbox_audit_row",
        sa.Column("row_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("entry_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
