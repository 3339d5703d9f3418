"""Engines refuse databases that could lose committed rows, and configure each connection."""

import uuid
from collections import namedtuple
from pathlib import Path

import psutil
import psycopg
import pytest

from outbox.db import engine as engines
from outbox.db.engine import create_outbox_engine, wal_is_safe
from outbox.errors import UnsafeDatabaseError
from testkit.databases import NewDatabase
from testkit.services import Postgres


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
    ],
)
def test_wal_is_used_from_sqlite_3_51_3(version: tuple[int, ...], *, safe: bool) -> None:
    """And with the two patched releases before it."""
    assert wal_is_safe(version) is safe


@pytest.mark.parametrize(("version", "journal"), [((3, 51, 2), "delete"), (engines.sqlite.sqlite_version_info, "wal")])
def test_the_sqlite_version_determines_the_journal(
    version: tuple[int, ...],
    journal: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An older version uses the rollback journal, with a warning, a newer one WAL; both sync every commit."""
    monkeypatch.setattr(engines.sqlite, "sqlite_version_info", version)
    engine = create_outbox_engine(f"sqlite:///{tmp_path}/outbox.db")
    with engine.connect() as connection:
        names = ("journal_mode", "synchronous", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]
    engine.dispose()
    assert found == [journal, 2, engines.BUSY_TIMEOUT_MS]
    assert ("can corrupt a WAL database" in caplog.text) is (journal == "delete")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_sqlite_on_a_network_file_system_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount of the file determines it; the message names the file system and the remedy."""
    partition = namedtuple("partition", "mountpoint fstype")  # noqa: PYI024 - what psutil gives has more fields
    mounts = [partition("/", "ext4"), partition(str(tmp_path.resolve()), kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    with pytest.raises(UnsafeDatabaseError, match=rf"network file system \({kind}\).*local disk, or PostgreSQL"):
        create_outbox_engine(f"sqlite:///{tmp_path}/outbox.db")


@pytest.mark.parametrize("name", ["timeout", "mode", "isolation_level"])
def test_parameters_of_a_sqlite_url_are_refused(name: str, tmp_path: Path) -> None:
    """The message names the parameter."""
    with pytest.raises(UnsafeDatabaseError, match=name):
        create_outbox_engine(f"sqlite:///{tmp_path}/outbox.db?{name}=x")


@pytest.mark.parametrize("path", ["", "/:memory:", "/file:outbox?mode=memory"])
def test_sqlite_without_a_plain_file_is_refused(path: str) -> None:
    """A database in memory keeps nothing."""
    with pytest.raises(UnsafeDatabaseError, match="plain file"):
        create_outbox_engine(f"sqlite://{path}")


def test_postgresql_with_another_isolation_level_is_refused(new_postgresql: NewDatabase) -> None:
    """A row inserted during a reshard would get its old shard, and no relay would send it."""
    url = new_postgresql()
    engine = create_outbox_engine(url)
    with engine.begin() as connection:
        name = engine.url.database
        connection.exec_driver_sql(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    engine.dispose()
    with pytest.raises(UnsafeDatabaseError, match="Set it to read committed"), engine.connect():
        pass
    engine.dispose()


def test_postgresql_with_synchronous_commit_off_is_refused(new_postgresql: NewDatabase) -> None:
    """The first connection raises an error with the remedy."""
    url = new_postgresql()
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{connection.info.dbname}" SET synchronous_commit = off')
    engine = create_outbox_engine(url)
    with pytest.raises(UnsafeDatabaseError, match=r"synchronous_commit = off.*Set fsync = on"), engine.connect():
        pass
    engine.dispose()


def test_postgresql_transactions_have_timeouts(new_postgresql: NewDatabase) -> None:
    """The session itself keeps none of them, for it may belong to a pooler."""
    engine = create_outbox_engine(new_postgresql())
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
        connection.rollback()
        raw = connection.connection.dbapi_connection
        assert raw is not None
        after = raw.execute("SHOW statement_timeout").fetchone()
        raw.rollback()
    engine.dispose()
    assert found == ["15s", "5s", "5s"]
    assert after == ("0",)


def test_postgresql_without_fsync_is_refused(tmp_path: Path) -> None:
    """Whatever its other settings are."""
    server = Postgres(tmp_path / "postgres", fsync="off")
    server.start()
    try:
        url = server.create_database(f"x{uuid.uuid4().hex[:8]}").replace("postgresql://", "postgresql+psycopg://")
        engine = create_outbox_engine(url)
        with pytest.raises(UnsafeDatabaseError, match="fsync = off"), engine.connect():
            pass
        engine.dispose()
    finally:
        server.stop()
