"""Add the time at which CXone was asked for missing fields."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("enriched_at", sa.BigInteger))
