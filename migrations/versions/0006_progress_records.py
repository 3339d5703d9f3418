"""Add the last acknowledged progress record, which shows when a broker went back in time."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("outbox_shard", sa.Column("progress_sequence", sa.BigInteger))
    op.add_column("outbox_shard", sa.Column("progress_offset", sa.BigInteger))
    op.add_column("outbox_shard", sa.Column("progress_digest", sa.Text))
