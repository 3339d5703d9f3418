"""When a row was completed from CXone, and parked inference calls found without reading the others."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("enriched_at", sa.BigInteger))
    parked = sa.text("state = 'parked'")
    op.create_index(
        "ix_outbox_inference_call_parked",
        "outbox_inference_call",
        ["row_id"],
        postgresql_where=parked,
        sqlite_where=parked,
    )
