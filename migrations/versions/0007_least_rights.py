"""A digest of each body, so that whoever stores bodies need not read them; who ran an operator's command.

Digests are filled in where a sender's key may come again with another body: a key of the body itself
has no other. These rows are found by a walk over the table, during which inserts wait, and senders come again.
"""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("payload_digest", sa.LargeBinary))
    op.add_column("outbox_audit", sa.Column("os_user", sa.Text))
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":  # PostgreSQL has it
        driver = connection.connection.driver_connection
        driver.create_function("sha256", 1, lambda payload: hashlib.sha256(payload).digest())  # type: ignore[union-attr]
    op.execute("UPDATE outbox SET payload_digest = sha256(payload) WHERE key LIKE 'key:%' AND length(payload) > 0")
