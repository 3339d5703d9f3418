"""Engines for both databases, configured so that a committed row is never lost.

SQLite: a version without the WAL bug or no WAL at all; every commit synced; writers queue at BEGIN.
PostgreSQL: durable commits required; timeouts set in each transaction, so that they also work behind a transaction
pooler.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DisconnectionError

from outbox.db.sqlite_files import SqliteFiles
from outbox.db.tls import tls_arguments
from outbox.errors import UnsafeDatabaseError

try:
    from pysqlite3 import dbapi2 as sqlite
except ImportError:  # no wheel for this platform: Python's own, usually older
    import sqlite3 as sqlite

__all__ = ["create_outbox_engine", "require_files", "sqlite", "wal_is_safe"]

log = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15_000
LOCK_TIMEOUT_MS = 5_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000  # a frozen relay must not keep a shard locked for long

ANSWER_SECONDS = 20.0
"""How long the client waits for the result of a statement; longer than the server's own timeouts."""
LONG_ANSWER_SECONDS = 600.0
"""The same for migrations and for commands that change all unsent rows, whose server timeout is as long."""

MAX_AGE_SECONDS = 300
"""A pooled connection to PostgreSQL is replaced after this time: its host name may resolve to another server."""

HAS_UNHEX = (3, 41)
"""The first version of SQLite with the function ``unhex``."""
WAL_SAFE_FROM = (3, 51, 3)
WAL_SAFE_PATCHES = frozenset({(3, 50, 7), (3, 44, 6)})

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smbfs",
        "smb3",
        "afpfs",
        "webdav",
        "9p",
        "ncpfs",
        "afs",
        "ceph",
        "lustre",
        "glusterfs",
    }
)
"""File systems whose locks or syncs SQLite cannot rely on (https://sqlite.org/howtocorrupt.html, 2.1)."""

TRANSACTION_TIMEOUTS = (
    f"SELECT set_config('statement_timeout', '{STATEMENT_TIMEOUT_MS}', true),"
    f" set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true),"
    f" set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION_TIMEOUT_MS}', true)"
)
"""Sets PostgreSQL's timeouts, for the current transaction only: a pooler's session keeps nothing of them."""
BEGIN = {
    # Writers queue here, not at their first write.
    "sqlite": "BEGIN IMMEDIATE",
    # One message saves a round trip.
    "postgresql": f"BEGIN; {TRANSACTION_TIMEOUTS}",
}
"""Begins a transaction that writes; the drivers begin none themselves."""

READ_ONLY = {"outbox_read_only": True}
"""Execution options: on SQLite the transaction is deferred, so that a reader never waits for writers."""
AUTOCOMMIT = {**READ_ONLY, "outbox_autocommit": True}
"""Execution options: on PostgreSQL each statement is its own transaction; on SQLite as ``READ_ONLY``."""

_REQUIRE_FILES, _IDLE_SINCE = "require_files", "idle_since"
"""Keys of what the pool stores with a connection."""


def create_outbox_engine(
    url: str,
    *,
    answer_seconds: float = ANSWER_SECONDS,
    may_create: bool = True,
    max_age_seconds: int = MAX_AGE_SECONDS,
) -> Engine:
    """Create an engine for the outbox.

    Args:
        url: ``sqlite:///file`` or ``postgresql+psycopg://…``, with query parameters for PostgreSQL.
        answer_seconds: how long to wait for the result of one statement on PostgreSQL.
        may_create: whether the first connection may create a missing SQLite file; later ones never do.
        max_age_seconds: after this time a pooled connection to PostgreSQL is replaced.

    Raises:
        UnsafeDatabaseError: SQLite in memory or on a network file system, or an unknown parameter of PostgreSQL.
            Unsafe settings of a PostgreSQL server raise the same error when a connection is made.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, may_create=may_create)
    return _postgresql_engine(parsed, answer_seconds, max_age_seconds)


def require_files(info: Mapping[Any, Any]) -> None:
    """Return if the files that a connection has written are still in place.

    Args:
        info: what the pool stores with the connection.

    Raises:
        ConnectionLostError: the SQLite file, or its log, was removed or replaced.
    """
    require: Callable[[], None] | None = info.get(_REQUIRE_FILES)
    if require is not None:
        require()


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Return whether this SQLite version keeps a WAL database intact under concurrent checkpoints."""
    return version >= WAL_SAFE_FROM or version in WAL_SAFE_PATCHES


def _sqlite_engine(url: URL, *, may_create: bool) -> Engine:
    path = _sqlite_path(url)
    engine = create_engine(
        url,
        module=sqlite,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
        max_overflow=-1,
    )
    _configure_sqlite(engine, path, may_create=may_create)
    return engine


def _sqlite_path(url: URL) -> Path:
    path = Path(url.database or ":memory:")
    if str(path) == ":memory:" or str(path).startswith("file:"):
        raise UnsafeDatabaseError(f"DATABASE_URL names {path}: the outbox needs a plain file, as in sqlite:///path")
    if url.query:
        raise UnsafeDatabaseError(
            f"DATABASE_URL has the parameter {min(url.query)!r}: a SQLite URL takes no parameters"
        )
    _refuse_network_file_system(path)
    return path


def _refuse_network_file_system(path: Path) -> None:
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UnsafeDatabaseError(f"DATABASE_URL names {path}, but the folder {folder} does not exist: create it")
    mounts = {Path(p.mountpoint): p.fstype.lower() for p in psutil.disk_partitions(all=True)}
    kind = next((mounts[parent] for parent in (folder, *folder.parents) if parent in mounts), "")
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs"):
        raise UnsafeDatabaseError(
            f"{path} is on a network file system ({kind}), whose locks SQLite cannot rely on: "
            "use a local disk, or PostgreSQL"
        )


def _journal_mode() -> str:
    if wal_is_safe(sqlite.sqlite_version_info):
        return "wal"
    log.warning(
        "SQLite %s can corrupt a WAL database; using the slower rollback journal: "
        "install the pysqlite3 wheel, or Python with SQLite 3.51.3 or later",
        sqlite.sqlite_version,
        extra={"action": "sqlite_without_wal"},
    )
    return "delete"


def _configure_sqlite(engine: Engine, path: Path, *, may_create: bool) -> None:
    pragmas = {"journal_mode": _journal_mode(), "synchronous": 2, "busy_timeout": BUSY_TIMEOUT_MS, "foreign_keys": 1}
    files = SqliteFiles(path.absolute(), may_create=may_create)

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        return files.open(lambda uri: sqlite.connect(uri, *arguments[1:], **parameters, uri=True))

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions: _begin does
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name} = {value}").close()
            (actual,) = connection.execute(f"PRAGMA {name}").fetchone()
            if actual != value:
                raise UnsafeDatabaseError(f"{path}: SQLite has {name} = {actual}, the outbox needs {value}")
        if sqlite.sqlite_version_info < HAS_UNHEX:
            connection.create_function("unhex", 1, bytes.fromhex, deterministic=True)
        record.info[_REQUIRE_FILES] = files.watch()

    @event.listens_for(engine, "checkout")
    def _check_files(_connection: Any, record: Any, _pooled: Any) -> None:
        require_files(record.info)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        deferred = connection.get_execution_options().get("outbox_read_only", False)
        connection.exec_driver_sql("BEGIN" if deferred else BEGIN["sqlite"])


def _postgresql_engine(url: URL, answer_seconds: float, max_age_seconds: int) -> Engine:
    defaults = {name: value for name, value in _CONNECT_DEFAULTS.items() if name not in url.query}
    engine = create_engine(
        url,
        hide_parameters=True,
        max_overflow=-1,
        pool_recycle=max_age_seconds,
        pool_use_lifo=True,
        connect_args={
            **defaults,
            # Prepared statements may switch to a generic plan, and poolers do not support them.
            "prepare_threshold": None,
            "client_encoding": "utf8",
            **tls_arguments(url),
        },
    )
    _refuse_unknown_parameters(engine, url)
    _configure_postgresql(engine, answer_seconds)
    return engine


def _configure_postgresql(engine: Engine, answer_seconds: float) -> None:
    # Imported here: the driver takes 0.15 s to load, which processes on SQLite save.
    from outbox.db.statement_deadline import DeadlineConnection

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        try:
            connection = DeadlineConnection.connect(*arguments, **parameters)
        except UnicodeError:  # from the resolver
            host = engine.url.host
            raise UnsafeDatabaseError(f"DATABASE_URL names the host {host!r}, which is no valid name") from None
        try:
            connection.answer_seconds = answer_seconds
            connection.autocommit = True  # the driver begins no transactions: _begin does
            connection.drop_notifications()
            connection.require_replication()
            connection.require_safe_server()
        except BaseException:
            connection.close()
            raise
        return connection

    @event.listens_for(engine, "checkin")
    def _note_idle(_connection: Any, record: Any) -> None:
        record.info[_IDLE_SINCE] = monotonic()

    @event.listens_for(engine, "checkout")
    def _check_usable(connection: Any, record: Any, _pooled: Any) -> None:
        idle_since = record.info.get(_IDLE_SINCE)
        if idle_since is not None and not connection.is_usable(monotonic() - idle_since):
            raise DisconnectionError

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("outbox_autocommit", False):
            connection.exec_driver_sql(BEGIN["postgresql"])


_CONNECT_DEFAULTS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "cxone-outbox",
    # Of several hosts, or several addresses of one, use the one that accepts writes.
    "target_session_attrs": "read-write",
}
"""Connection parameters that the URL can override."""


def _refuse_unknown_parameters(engine: Engine, url: URL) -> None:
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo

    _, parameters = engine.dialect.create_connect_args(url)
    try:
        make_conninfo("", **{name: value for name, value in parameters.items() if name in url.query})
    except ProgrammingError as error:  # names the parameter, not its value
        raise UnsafeDatabaseError(f"DATABASE_URL cannot be used: {str(error).strip()}") from None
