"""Which progress record was settled last: a broker that goes back in time is found by it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("outbox_shard", sa.Column("progress_sequence", sa.BigInteger))
    op.add_column("outbox_shard", sa.Column("progress_offset", sa.BigInteger))
    op.add_column("outbox_shard", sa.Column("progress_digest", sa.Text))
