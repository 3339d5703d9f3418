"""Engines per database, each made safe before the first row: what was committed must stay.

SQLite: a version without the WAL bug or no WAL at all, every commit synced, writers queue at BEGIN.
PostgreSQL: durable commits asserted, time-outs set in every transaction (transaction-scoped, so that
a transaction pooler in between does no harm).
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
from outbox.errors import UnsafeDatabaseError
from outbox.network import tls_arguments

try:
    from pysqlite3 import dbapi2 as sqlite
except ImportError:  # no wheel for this platform: Python's own, usually older
    import sqlite3 as sqlite

__all__ = ["create_outbox_engine", "insist_on_files", "sqlite", "wal_is_safe"]

log = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15_000
LOCK_TIMEOUT_MS = 5_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000  # a frozen owner must not keep a shard locked for long

ANSWER_SECONDS = 20.0
"""How long a server may leave a statement unanswered; longer than its own time-outs take."""
LONG_ANSWER_SECONDS = 600.0
"""The same for migrations and for what touches every row not yet sent, whose server time-out is as long."""

MAX_AGE_SECONDS = 300
"""A pooled connection to PostgreSQL is replaced after this time: an address may lead elsewhere by then."""

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
"""File systems whose locks or syncs SQLite cannot rely on (sqlite.org/howtocorrupt.html, 2.1)."""

TIME_OUTS = (
    f"SELECT set_config('statement_timeout', '{STATEMENT_TIMEOUT_MS}', true),"
    f" set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true),"
    f" set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION_TIMEOUT_MS}', true)"
)
"""Of PostgreSQL; local to a transaction, so that a pooled server connection keeps nothing of ours."""
BEGIN = {
    # Writers queue here, not at their first write.
    "sqlite": "BEGIN IMMEDIATE",
    # One message: each one waits for its answer.
    "postgresql": f"BEGIN; {TIME_OUTS}",
}
"""What begins a transaction that writes; the drivers begin none themselves."""

READ_ONLY = {"outbox_read_only": True}
"""Execution option: on SQLite the transaction is deferred, so that a reader never queues behind writers."""
SINGLE = {**READ_ONLY, "outbox_single": True}
"""Execution options: on PostgreSQL each statement commits by itself; on SQLite as ``READ_ONLY``."""


_FILES, _IDLE_SINCE = "files", "idle since"
"""What the pool keeps with a connection."""


def create_outbox_engine(url: str, *, answer_seconds: float = ANSWER_SECONDS, may_create: bool = True) -> Engine:
    """An engine for the ledger.

    Args:
        url: ``sqlite:///file`` or ``postgresql+psycopg://…`` (query parameters are kept).
        answer_seconds: how long a PostgreSQL server may leave one statement unanswered.
        may_create: whether the first connection may make a SQLite file that is not there; later ones never do.

    Raises:
        UnsafeDatabaseError: SQLite in memory, or on a network file system; an unknown parameter of PostgreSQL.
            Settings of a PostgreSQL server are asserted when a connection is made, with the same error.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, may_create=may_create)
    return _postgresql_engine(parsed, answer_seconds)


def insist_on_files(info: Mapping[Any, Any]) -> None:
    """Return if what a connection has written can be found again.

    Args:
        info: what the pool keeps with the connection.

    Raises:
        ConnectionLostError: the SQLite file, or its log, was removed or replaced.
    """
    insist: Callable[[], None] | None = info.get(_FILES)
    if insist is not None:
        insist()


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite keeps a WAL database whole under concurrent checkpoints."""
    return version >= WAL_SAFE_FROM or version in WAL_SAFE_PATCHES


def _sqlite_engine(url: URL, *, may_create: bool) -> Engine:
    path = Path(url.database or ":memory:")
    if str(path) == ":memory:" or str(path).startswith("file:"):
        raise UnsafeDatabaseError(f"DATABASE_URL names {path}: the outbox needs a plain file, sqlite:///path")
    if url.query:
        raise UnsafeDatabaseError(f"DATABASE_URL cannot be used: SQLite takes no parameter {min(url.query)!r} here")
    _refuse_network_file_system(path)
    journal = "wal" if wal_is_safe(sqlite.sqlite_version_info) else "delete"
    if journal != "wal":
        log.warning(
            "SQLite %s can corrupt a WAL database, so the slower rollback journal is used: "
            "install the pysqlite3 wheel, or Python with SQLite 3.51.3 or later",
            sqlite.sqlite_version,
        )
    engine = create_engine(
        url,
        module=sqlite,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
        max_overflow=-1,
    )

    pragmas = {"journal_mode": journal, "synchronous": 2, "busy_timeout": BUSY_TIMEOUT_MS, "foreign_keys": 1}
    files = SqliteFiles(path.absolute(), may_create=may_create)

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        return files.open(lambda uri: sqlite.connect(uri, *arguments[1:], **parameters, uri=True))

    @event.listens_for(engine, "checkout")
    def _insist(_connection: Any, record: Any, _pooled: Any) -> None:
        insist_on_files(record.info)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver opens no transactions of its own: _begin does
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name} = {value}").close()
            (got,) = connection.execute(f"PRAGMA {name}").fetchone()
            if got != value:
                raise UnsafeDatabaseError(f"SQLite has {name} = {got} where the outbox needs {value} ({path})")
        record.info[_FILES] = files.watched()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        deferred = connection.get_execution_options().get("outbox_read_only", False)
        connection.exec_driver_sql("BEGIN" if deferred else BEGIN["sqlite"])

    return engine


def _refuse_network_file_system(path: Path) -> None:
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UnsafeDatabaseError(f"DATABASE_URL names {path}, but the folder {folder} does not exist: create it")
    mounts = {Path(p.mountpoint): p.fstype.lower() for p in psutil.disk_partitions(all=True)}
    kind = next((mounts[place] for place in (folder, *folder.parents) if place in mounts), "")
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs"):
        raise UnsafeDatabaseError(
            f"{path} is on a network file system ({kind}), whose locks SQLite cannot rely on: "
            "use a local disk, or PostgreSQL"
        )


def _postgresql_engine(url: URL, answer_seconds: float) -> Engine:
    # Here, for the driver takes 0.15 s to load: what uses SQLite starts that much sooner.
    from outbox.db.statement_deadline import DeadlineConnection

    usual = {name: value for name, value in _CONNECT_ARGUMENTS.items() if name not in url.query}
    engine = create_engine(
        url,
        hide_parameters=True,
        max_overflow=-1,
        pool_recycle=MAX_AGE_SECONDS,
        pool_use_lifo=True,
        connect_args={
            **usual,
            # Repeated prepared statements may flip to a generic plan, and poolers do not know them.
            "prepare_threshold": None,
            "client_encoding": "utf8",
            **tls_arguments(url),
        },
    )
    _refuse_unknown_parameters(engine, url)

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        try:
            connection = DeadlineConnection.connect(*arguments, **parameters)
        except UnicodeError:  # of the resolver
            raise UnsafeDatabaseError(f"DATABASE_URL names {url.host!r}, which cannot be a host's name") from None
        connection.answer_seconds = answer_seconds
        try:
            connection.autocommit = True  # the driver opens no transactions of its own: _begin does
            connection.drop_notifications()
            connection.refuse_unfit()
        except BaseException:
            connection.close()
            raise
        return connection

    @event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info[_IDLE_SINCE] = monotonic()

    @event.listens_for(engine, "checkout")
    def _look(connection: Any, record: Any, _pooled: Any) -> None:
        idle_since = record.info.get(_IDLE_SINCE)
        if idle_since is not None and not connection.serves(monotonic() - idle_since):
            raise DisconnectionError

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("outbox_single", False):
            connection.exec_driver_sql(BEGIN["postgresql"])

    return engine


_CONNECT_ARGUMENTS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "cxone-outbox",
    # Of several hosts, or several addresses of one, the one that takes writes.
    "target_session_attrs": "read-write",
}
"""Unless the URL has others."""


def _refuse_unknown_parameters(engine: Engine, url: URL) -> None:
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo

    _, parameters = engine.dialect.create_connect_args(url)
    try:
        make_conninfo("", **{name: value for name, value in parameters.items() if name in url.query})
    except ProgrammingError as error:  # it names the parameter, not its value
        raise UnsafeDatabaseError(f"DATABASE_URL cannot be used: {str(error).strip()}") from None
