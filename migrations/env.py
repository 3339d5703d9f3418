"""Runs the migrations in one transaction, one process at a time, without blocking the webhook for long."""

import os

from alembic import context
from sqlalchemy import Connection

from config.logging import configure_logging
from config.settings import load
from migrations.settings import ReleaseSettings
from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.db.schema import metadata
from outbox.db.transactions import translate_errors

LOCK = 0x6F757462_6F780001
"""Advisory lock of the migrations ("outbox", 1); any number that nothing else in the database uses."""


def _prepare_postgresql(connection: Connection) -> None:
    """Fail soon: while a migration waits for a lock, every insert queues behind it."""
    connection.exec_driver_sql("SELECT set_config('lock_timeout', '5s', true)")
    connection.exec_driver_sql(f"SELECT set_config('statement_timeout', '{LONG_ANSWER_SECONDS:.0f}s', true)")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")


def migrate() -> None:
    """Migrate the database of ``DATABASE_URL`` to the newest revision."""
    settings = load(ReleaseSettings, os.environ)
    configure_logging(settings, "migrate")
    engine = create_outbox_engine(settings.database_url.get_secret_value(), answer_seconds=LONG_ANSWER_SECONDS)
    with translate_errors(engine), engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            transactional_ddl=True,  # also on SQLite, as the driver begins no transactions
            shards=settings.relay_shards,
        )
        with context.begin_transaction():
            if engine.dialect.name == "postgresql":
                _prepare_postgresql(connection)
            context.run_migrations()
    engine.dispose()


migrate()
