"""SQLite files are created readable by their owner only, whatever the umask."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from outbox.db.engine import create_outbox_engine
from outbox.store import Store
from testkit import ROOT
from testkit.command_line import command
from testkit.databases import NewDatabase, migrate
from testkit.rows import new_row
from testkit.web_process import WebProcess


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Set the umask to 0, for this process and those it starts."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Return the mode of each file of the database in the folder."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("x.db*")}


def test_every_file_of_a_database_is_private_to_its_owner(tmp_path: Path) -> None:
    """The database has mode 0600, and so have its log and shared memory while it is open."""
    migrate(f"sqlite:///{tmp_path}/x.db", 1)
    assert modes(tmp_path) == {"x.db": 0o600}
    engine = create_outbox_engine(f"sqlite:///{tmp_path}/x.db")
    Store(engine).record([new_row()])
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar_one() == 1
        assert set(modes(tmp_path).values()) == {0o600}
        assert len(modes(tmp_path)) >= 2
    engine.dispose()


def test_the_target_of_a_symbolic_link_is_private_to_its_owner(tmp_path: Path) -> None:
    """If the database is a dangling link, its target is created with mode 0600."""
    (tmp_path / "link.db").symlink_to(tmp_path / "x.db")
    migrate(f"sqlite:///{tmp_path}/link.db", 1)
    assert modes(tmp_path) == {"x.db": 0o600}


def test_the_web_process_creates_no_file_for_others(tmp_path: Path) -> None:
    """A web process that starts before the migration answers 503, and any file it creates has mode 0600."""
    web = WebProcess({"DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}, tmp_path / "web.log")
    try:
        assert web.post({"id": "1", "channel": "voice"}).status_code == 503
    finally:
        web.stop()
    assert {name: mode for name, mode in modes(tmp_path).items() if mode != 0o600} == {}


def test_alembic_creates_no_file_for_others(tmp_path: Path) -> None:
    """``alembic upgrade`` creates the database with mode 0600, as ``relay migrate`` does."""
    environ = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, env=environ, check=True)
    assert modes(tmp_path) == {"x.db": 0o600}


def test_check_warns_of_a_file_that_others_can_read(new_sqlite: NewDatabase) -> None:
    """The warning has the mode and the command that restricts it."""
    url = new_sqlite()
    path = Path(url.removeprefix("sqlite:///"))
    private = command({"DATABASE_URL": url}, "check")
    assert f"database file: only the owner has access to {path}" in private.stdout
    path.chmod(0o644)
    readable = command({"DATABASE_URL": url}, "check")
    assert f"warning  database file: other users than the owner have access to {path} (mode 0644)" in readable.stdout
    assert f"remedy: chmod 600 {path}" in readable.stdout
