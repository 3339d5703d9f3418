"""Create the tables of the relays that share the shards, and of paused shards."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
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
