"""Data at rest: what is made is the owner's alone, whatever the umask of the process."""

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
    """The most careless umask there is, for this process and those that it starts."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Name to rights, of every file of a database in the folder."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("x.db*")}


def test_every_file_of_a_database_is_the_owners_alone(tmp_path: Path) -> None:
    """The file, and while it is in use the log and the shared memory beside it."""
    migrate(f"sqlite:///{tmp_path}/x.db", 1)
    assert modes(tmp_path) == {"x.db": 0o600}
    engine = create_outbox_engine(f"sqlite:///{tmp_path}/x.db")
    Store(engine).record([new_row()])
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar_one() == 1
        assert set(modes(tmp_path).values()) == {0o600}
        assert len(modes(tmp_path)) >= 2
    engine.dispose()


def test_a_file_behind_a_link_is_the_owners_alone(tmp_path: Path) -> None:
    """A link that leads nowhere yet: what SQLite makes is its target."""
    (tmp_path / "link.db").symlink_to(tmp_path / "x.db")
    migrate(f"sqlite:///{tmp_path}/link.db", 1)
    assert modes(tmp_path) == {"x.db": 0o600}


def test_the_web_process_makes_no_file_for_others(tmp_path: Path) -> None:
    """Started before the migration, it meets an empty database of its own making."""
    web = WebProcess({"DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}, tmp_path / "web.log")
    try:
        assert web.post({"id": "1", "channel": "voice"}).status_code == 503
    finally:
        web.stop()
    assert set(modes(tmp_path).values()) <= {0o600}


def test_alembic_makes_no_file_for_others(tmp_path: Path) -> None:
    """Developers migrate with it."""
    environ = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, env=environ, check=True)
    assert modes(tmp_path) == {"x.db": 0o600}


def test_a_check_warns_of_a_file_that_others_can_read(new_sqlite: NewDatabase) -> None:
    """Made by an earlier release, or copied: with the command that closes it."""
    url = new_sqlite()
    path = Path(url.removeprefix("sqlite:///"))
    closed = command({"DATABASE_URL": url}, "check")
    assert f"database file: {path} is the owner's alone" in closed.stdout
    path.chmod(0o644)
    opened = command({"DATABASE_URL": url}, "check")
    assert f"warning  database file: others than the owner have rights on {path} (mode 0644)" in opened.stdout
    assert f"remedy: chmod 600 {path}" in opened.stdout
