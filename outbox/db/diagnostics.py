"""What can be seen of the database itself: its version, its settings, its size, its clock."""

from dataclasses import dataclass
from pathlib import Path
from time import time

import psutil
from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.db.engine import sqlite
from outbox.sql import flow as sql

_POSTGRESQL = sql.statement("""
    SELECT current_setting('server_version_num') AS version, current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') AS synchronous_standby_names,
           pg_is_in_recovery() AS standby, pg_database_size(current_database()) AS size
""")


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    """A database as it answered."""

    kind: str
    """``postgresql`` or ``sqlite``."""
    version: tuple[int, ...]
    settings: dict[str, str]
    """Those that decide whether a commit lasts."""
    standby: bool
    """It replays another server's log and takes no writes."""
    size_bytes: int
    free_bytes: int | None
    """On the disk that holds it; None where the server does not tell."""
    clock_ahead_seconds: float
    """Of this machine's; negative where it is behind."""


def inspect(engine: Engine) -> DatabaseInfo:
    """Look at the database.

    Raises:
        DatabaseUnavailableError, UnsafeDatabaseError
    """
    with transactions.read(engine) as connection:
        began = time()
        now_ms = connection.execute(sql.NOW.on(connection)).scalar_one()
        ahead = now_ms / 1000 - (began + time()) / 2
        return (_postgresql if engine.dialect.name == "postgresql" else _sqlite)(connection, ahead)


def revision(engine: Engine) -> str | None:
    """The schema's revision; None: no migration has run.

    Raises:
        SchemaOutdatedError: as None, where not even alembic's table is there.
    """
    with transactions.read(engine) as connection:
        return connection.execute(sql.REVISION.on(connection)).scalar_one_or_none()


def _postgresql(connection: Connection, ahead: float) -> DatabaseInfo:
    seen = connection.execute(_POSTGRESQL.on(connection)).one()
    version = divmod(int(seen.version), 10_000)
    names = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    settings = {name: str(getattr(seen, name)) for name in names}
    return DatabaseInfo("postgresql", version, settings, bool(seen.standby), int(seen.size), None, ahead)


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
