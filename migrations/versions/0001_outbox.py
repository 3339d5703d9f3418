"""Create the outbox, its identity, its shards, and the inference calls."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_outbox()
    _create_shards()
    _create_inference_calls()


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", _Id, sa.Identity(), primary_key=True),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("interaction_id", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
        sa.Column("customer_email", sa.Text),
        sa.Column("agent_id", sa.Text),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("replay_of", sa.BigInteger),
        sa.Column("state", sa.Text, nullable=False, server_default="pending"),
        sa.Column("error", sa.Text),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("sequence", sa.BigInteger),
        sa.CheckConstraint("state IN ('pending', 'sent', 'parked', 'discarded')", name=op.f("ck_outbox_state_known")),
        sa.CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name=op.f("ck_outbox_sent_has_time")),
        sa.CheckConstraint("(state = 'sent') = (sequence IS NOT NULL)", name=op.f("ck_outbox_sent_has_sequence")),
        sa.CheckConstraint("state <> 'parked' OR error IS NOT NULL", name=op.f("ck_outbox_parked_has_error")),
        sa.CheckConstraint("timestamp_ms >= 0", name=op.f("ck_outbox_timestamp_positive")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_key", "outbox", ["key"], unique=True)
    _partial_index("ix_outbox_pending", "outbox", ["shard", "id"], "state = 'pending'")
    _partial_index("ix_outbox_parked", "outbox", ["shard", "interaction_id", "id"], "state = 'parked'")
    _partial_index("ix_outbox_discarded", "outbox", ["shard"], "state = 'discarded'")


def _create_shards() -> None:
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
    )
    op.bulk_insert(shard, [{"shard": number} for number in range(shards)])


def _create_inference_calls() -> None:
    op.create_table(
        "outbox_inference_call",
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
    _partial_index("ix_outbox_inference_call_due", "outbox_inference_call", ["due_at"], "state = 'due'")
    _partial_index(
        "ix_outbox_inference_call_order",
        "outbox_inference_call",
        ["interaction_id", "row_id"],
        "state = 'due'",
    )


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
