"""Add a digest of each body, so that the webhook needs no right to read bodies; and the user of an audit entry.

Existing rows get a digest if a sender chose their key: only such a key can come again with another body. These rows are
found by a scan of the table, during which inserts wait, and senders retry.
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
    if connection.dialect.name == "sqlite":  # PostgreSQL has sha256
        driver = connection.connection.driver_connection
        driver.create_function("sha256", 1, lambda payload: hashlib.sha256(payload).digest())  # type: ignore[union-attr]
    op.execute("UPDATE outbox SET payload_digest = sha256(payload) WHERE key LIKE 'key:%' AND length(payload) > 0")
