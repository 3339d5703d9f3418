"""``relay migrate`` from a checkout and from an installed wheel, on both databases."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from migrations.run import head
from outbox.db.engine import create_outbox_engine
from testkit import ROOT
from testkit.command_line import expect
from testkit.services import ExternalService, Postgres

Relay = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["checkout", "wheel"])
def relay(request: pytest.FixtureRequest, tmp_path: Path) -> Relay:
    """Return a function that runs ``relay`` with arguments; keyword arguments are settings."""
    if request.param == "wheel":
        start, folder = [str(request.getfixturevalue("wheel_environment") / "relay")], tmp_path
    else:
        start, folder = [sys.executable, "-m", "relay"], ROOT

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, "LOG_LEVEL": "WARNING", "RELAY_SHARDS": "", "RELAY_ACTOR": "ann", **environ}
        return subprocess.run([*start, *arguments], cwd=folder, env=given, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database without tables; the test runs once for each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new.db"
    server: Postgres | ExternalService = request.getfixturevalue("postgres")
    return server.create_database(f"migrate_{uuid.uuid4().hex[:8]}")


def test_relay_migrate_works_wherever_it_is_installed(relay: Relay, empty_database: str) -> None:
    """Behind, migrated, up to date: each has its exit code, and the other commands work on the result: two shards."""
    behind = relay("migrate", "--check", DATABASE_URL=empty_database)
    expect(behind, 4, stderr="run relay migrate")
    assert behind.stdout == ""
    migrated = relay("migrate", DATABASE_URL=empty_database)
    expect(migrated, 0)
    assert migrated.stderr == ""
    assert migrated.stdout == f"schema created at revision {head()}\n"
    for arguments in (["migrate"], ["migrate", "--check"]):
        again = relay(*arguments, DATABASE_URL=empty_database)
        expect(again, 0, stdout=f"schema is already at revision {head()}: nothing to do\n")
    status = relay("status", "--json", DATABASE_URL=empty_database)
    assert len(status.stdout.splitlines()) == 2, status.stderr
    checked = relay("check", DATABASE_URL=empty_database, KAFKA_BOOTSTRAP_SERVERS="", SCHEMA_REGISTRY_URL="")
    assert f"database schema: at revision {head()}, the newest" in checked.stdout


def test_a_check_creates_no_database(relay: Relay, tmp_path: Path) -> None:
    """A wrong path would otherwise become an empty outbox."""
    assert relay("migrate", "--check", DATABASE_URL=f"sqlite:///{tmp_path}/none.db").returncode == 4
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"DATABASE_URL": "sqlite:///missing/folder/x.db"}, "does not exist: create it"),
        ({"DATABASE_URL": "postgres://outbox:canary@127.0.0.1:9/none"}, "refused"),
        ({"DATABASE_URL": "postgres://outbox:can@ary@127.0.0.1/none"}, "@ as %40"),
        ({"DATABASE_URL": "sqlite:///x.db", "RELAY_SHARDS": "100"}, "RELAY_SHARDS='100'"),
    ],
)
def test_a_failure_is_one_line(environ: dict[str, str], reason: str, relay: Relay) -> None:
    """With exit code 1, no traceback and no password."""
    refused = relay("migrate", **environ)
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stderr
    assert reason in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not {"canary", "can@ary"} & set(refused.stderr.split())


def test_a_schema_of_a_later_release_is_left_alone(relay: Relay, empty_database: str) -> None:
    """Going back a release runs the release phase of the older version, which works on the newer schema."""
    relay("migrate", DATABASE_URL=empty_database)
    engine = create_outbox_engine(empty_database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    for arguments in (["migrate"], ["migrate", "--check"]):
        done = relay(*arguments, DATABASE_URL=empty_database)
        assert done.returncode == 0, done.stderr
        assert "newer than this version's" in done.stdout


def test_a_lock_that_is_held_is_reported(relay: Relay, postgres: Postgres | ExternalService) -> None:
    """The migration fails within seconds, so that inserts do not queue behind it."""
    url = postgres.create_database(f"locked_{uuid.uuid4().hex[:8]}").replace("postgresql://", "postgresql+psycopg://")
    assert relay("migrate", DATABASE_URL=url).returncode == 0
    engine = create_outbox_engine(url)
    with engine.connect() as holder, holder.begin():
        holder.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        holder.exec_driver_sql("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        blocked = relay("migrate", DATABASE_URL=url)
    engine.dispose()
    assert blocked.returncode == 1
    assert "a long transaction holds the lock" in blocked.stderr.splitlines()[-1]
