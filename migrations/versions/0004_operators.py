"""Add what operators need: replays to other topics, the time of the last change, indexes, earlier vacuuming.

The indexes are built in the migration's transaction: inserts wait meanwhile, and senders retry.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

AUTOVACUUM = """
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02
"""
"""Every row leaves a dead entry in the index of pending rows, and pruning leaves free space: vacuum both early."""


def upgrade() -> None:
    op.add_column("outbox", sa.Column("topic", sa.Text))
    op.add_column("outbox", sa.Column("changed_at", sa.BigInteger))
    op.create_index("ix_outbox_interaction", "outbox", ["interaction_id"])
    _partial_index("ix_outbox_parked_order", "outbox", ["shard", "id"], "state = 'parked'")
    op.drop_index("ix_outbox_discarded", "outbox")
    _partial_index("ix_outbox_discarded", "outbox", ["shard", "id"], "state = 'discarded'")
    _partial_index("ix_outbox_replay_of", "outbox", ["replay_of"], "replay_of IS NOT NULL")
    _partial_index("ix_outbox_inference_call_parked", "outbox_inference_call", ["row_id"], "state = 'parked'")
    if op.get_bind().dialect.name == "postgresql":
        for table in ("outbox", "outbox_inference_call"):
            op.execute(f"ALTER TABLE {table} SET ({AUTOVACUUM})")


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
