"""Information about the database itself: its version, its settings, its size, its clock."""

from dataclasses import dataclass
from pathlib import Path
from time import time

import psutil
from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.db.engine import sqlite
from outbox.sql import flow as sql
from outbox.sql.statement import statement

_POSTGRESQL = statement("""
    SELECT current_setting('server_version_num') AS version, current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') AS synchronous_standby_names,
           pg_is_in_recovery() AS standby, pg_database_size(current_database()) AS size
""")


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    """Information about a database."""

    kind: str
    """``postgresql`` or ``sqlite``."""
    version: tuple[int, ...]
    settings: dict[str, str]
    """The settings that determine whether a commit is durable."""
    standby: bool
    """Whether it replays another server's log, and so accepts no writes."""
    size_bytes: int
    free_bytes: int | None
    """Free space on its disk; None on PostgreSQL, which does not report it."""
    clock_ahead_seconds: float
    """How far its clock is ahead of this machine's; negative: behind."""


def inspect(engine: Engine) -> DatabaseInfo:
    """Read information about the database.

    Raises:
        DatabaseUnavailableError, UnsafeDatabaseError
    """
    with transactions.read(engine) as connection:
        ahead = -clock_offset_seconds(connection)
        return (_postgresql if engine.dialect.name == "postgresql" else _sqlite)(connection, ahead)


def clock_offset_seconds(connection: Connection) -> float:
    """Return how far this process's clock is ahead of the database's; negative: behind.

    It is exact to half the time that the query takes. SQLite has no clock of its own.
    """
    began = time()
    now_ms = connection.execute(sql.NOW.on(connection)).scalar_one()
    return float((began + time()) / 2 - now_ms / 1000)


def revision(engine: Engine) -> str | None:
    """Return the schema's revision; None: no migration has run.

    Raises:
        SchemaOutdatedError: no migration has run, and alembic's table is missing.
    """
    with transactions.read(engine) as connection:
        return connection.execute(sql.REVISION.on(connection)).scalar_one_or_none()


def _postgresql(connection: Connection, ahead: float) -> DatabaseInfo:
    found = connection.execute(_POSTGRESQL.on(connection)).one()
    names = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    return DatabaseInfo(
        "postgresql",
        version=divmod(int(found.version), 10_000),
        settings={name: str(getattr(found, name)) for name in names},
        standby=bool(found.standby),
        size_bytes=int(found.size),
        free_bytes=None,
        clock_ahead_seconds=ahead,
    )


def _sqlite(connection: Connection, ahead: float) -> DatabaseInfo:
    def pragma(name: str) -> str:
        return str(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())

    path = Path(connection.engine.url.database or "").resolve()
    return DatabaseInfo(
        "sqlite",
        sqlite.sqlite_version_info,
        {name: pragma(name) for name in ("journal_mode", "synchronous")},
        standby=False,
        size_bytes=int(pragma("page_count")) * int(pragma("page_size")),
        free_bytes=psutil.disk_usage(str(path.parent)).free,
        clock_ahead_seconds=ahead,
    )
