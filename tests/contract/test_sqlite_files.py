"""SQLite's files vanish, are replaced, or cannot be written: no row is acknowledged that cannot be found again."""

import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError
from outbox.models import Accepted
from outbox.notifications import Listener
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.file_faults import delete, delete_alone, delete_folder
from testkit.rows import new_row
from testkit.waiting import wait_until


@pytest.fixture
def path(new_sqlite: NewDatabase, tmp_path: Path) -> Path:
    """Return the path of a migrated database in its own folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.move(new_sqlite().removeprefix("sqlite:///"), folder / "outbox.db")
    return folder / "outbox.db"


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    """Return an engine on that database, as webhook and relay have it."""
    engine = create_outbox_engine(f"sqlite:///{path}", may_create=False)
    yield engine
    engine.dispose()


def accepted(store: Store) -> Accepted:
    """Record a row that the store acknowledges."""
    (outcome,) = store.record([new_row()])
    assert isinstance(outcome, Accepted)
    return outcome


def rows(path: Path) -> list[int]:
    """Return the ids in the file, as a new process reads them."""
    engine = create_outbox_engine(f"sqlite:///{path}", may_create=False)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT id FROM outbox ORDER BY id").scalars().all()
    engine.dispose()
    return list(found)


def copy_of(path: Path) -> Path:
    """Return a backup of the database, beside its folder."""
    copy = path.parent.parent / "copy.db"
    engine = create_outbox_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.rollback()
        connection.connection.driver_connection.execute(f"VACUUM INTO '{copy}'")  # type: ignore[union-attr]
    engine.dispose()
    return copy


def replace(path: Path) -> None:
    """Replace the file by another one, and remove that."""
    other = path.with_name("other.db")
    other.touch()
    other.rename(path)
    path.unlink()


@pytest.mark.parametrize("remove", [delete, delete_alone, delete_folder, replace])
def test_a_missing_file_accepts_nothing(path: Path, engine: Engine, remove: Callable[[Path], None]) -> None:
    """Reads and writes fail at once, no empty file is created in its place, and a copy that is put there is used."""
    store, copy = Store(engine), copy_of(path)
    accepted(store)
    remove(path)
    for verb in (lambda: accepted(store), store.check_writable, store.status):
        with pytest.raises(DatabaseUnavailableError, match=r"outbox\.db.*(removed|does not exist)"):
            verb()
    assert not path.exists()
    path.parent.mkdir(exist_ok=True)
    shutil.copy(copy, path)
    ids: list[int] = []
    wait_until(lambda: writes(store, ids), "the copy is opened")
    assert rows(path) == ids


@pytest.mark.parametrize("whole", [0, 1, 0.5])
def test_an_unfinished_copy_is_not_opened(path: Path, engine: Engine, whole: float) -> None:
    """Empty, cut off or growing: nothing is accepted until the file is complete and unchanged for a second."""
    store, content = Store(engine), copy_of(path).read_bytes()
    accepted(store)
    path.unlink()
    with path.open("wb") as copying:
        copying.write(content[: int(len(content) * whole)])
        copying.flush()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError):
                accepted(store)
        copying.seek(0)
        copying.write(content)
    ids: list[int] = []
    wait_until(lambda: writes(store, ids), "the copy is opened")
    assert rows(path) == ids


def test_an_empty_file_is_refused(path: Path) -> None:
    """A process that starts while a copy begins does not create a new database in it."""
    path.write_bytes(b"")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    engine = create_outbox_engine(f"sqlite:///{path}", may_create=False)
    with pytest.raises(DatabaseUnavailableError, match="is empty"):
        accepted(Store(engine))
    engine.dispose()
    assert path.read_bytes() == b""


def test_a_file_that_is_moved_away_and_back_works_again(path: Path, engine: Engine) -> None:
    """Nothing is accepted meanwhile, and everything acknowledged is in it afterwards."""
    store, away = Store(engine), path.with_name("away.db")
    ids = [accepted(store).outbox_id]
    path.rename(away)
    with pytest.raises(DatabaseUnavailableError):
        accepted(store)
    away.rename(path)
    ids.append(accepted(store).outbox_id)
    assert rows(path) == ids


def test_a_replaced_file_is_reopened(path: Path, engine: Engine) -> None:
    """Each process notices a restore by rename; what is acknowledged afterwards is in the new file."""
    copy, other = copy_of(path), create_outbox_engine(f"sqlite:///{path}", may_create=False)
    stores = [Store(engine), Store(other)]
    for store in stores:
        accepted(store)
    copy.rename(path)
    ids: list[int] = []
    for store in stores:
        wait_until(partial(writes, store, ids), "the new file is opened")
    other.dispose()
    assert rows(path) == ids


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="+".join)
def test_a_removed_log_loses_nothing(path: Path, engine: Engine, suffixes: tuple[str, ...]) -> None:
    """All connections are closed before a new one is opened: the last one saves the commits in the log."""
    store, other = Store(engine), create_outbox_engine(f"sqlite:///{path}", may_create=False)
    ids = [accepted(store).outbox_id, accepted(Store(other)).outbox_id]
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()
    for store_of_one_process in (store, Store(other)):
        with pytest.raises(DatabaseUnavailableError):
            accepted(store_of_one_process)
    for again in (store, Store(other)):
        wait_until(partial(writes, again, ids), "it is opened again")
    other.dispose()
    assert rows(path) == ids


def writes(store: Store, ids: list[int]) -> bool:
    """Return whether a row is accepted, and add its id."""
    try:
        ids.append(accepted(store).outbox_id)
    except DatabaseUnavailableError:
        return False
    return True


def test_a_row_is_not_acknowledged_if_the_file_vanishes_during_its_commit(path: Path, engine: Engine) -> None:
    """The check after the commit detects it."""
    store = Store(engine)
    accepted(store)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        driver.create_function("vanish", 0, lambda: path.unlink(missing_ok=True))  # type: ignore[union-attr]
        driver.execute("CREATE TEMP TRIGGER t AFTER INSERT ON outbox BEGIN SELECT vanish(); END")  # type: ignore[union-attr]
    with pytest.raises(DatabaseUnavailableError):
        accepted(store)


def test_a_listener_notices_a_removed_file(path: Path, engine: Engine) -> None:
    """It keeps its own connection."""
    listener = Listener(engine)
    assert listener.wait(0)
    path.unlink()
    with pytest.raises(DatabaseUnavailableError, match=r"outbox\.db was removed"):
        listener.wait(1)
    listener.close()


@contextmanager
def unprivileged(path: Path) -> Iterator[str]:
    """Run the block as a user who is not root and owns the files; yield the name."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    if os.geteuid() == 0:
        for place in (path.parent, *path.parent.iterdir()):
            os.chown(place, user.pw_uid, user.pw_gid)
        for place in path.parent.parents:
            if place.stat().st_uid == 0 and place.stat().st_mode & 0o011 != 0o011:
                place.chmod(place.stat().st_mode | 0o011)
        os.seteuid(user.pw_uid)
        try:
            yield user.pw_name
        finally:
            os.seteuid(0)
    else:
        yield user.pw_name


@pytest.mark.parametrize("what", ["folder", "file"])
def test_missing_permissions_are_reported(path: Path, what: str) -> None:
    """The error names user, file and folder, and the remedy."""
    place, mode = (path.parent, 0o555) if what == "folder" else (path, 0o444)
    with unprivileged(path) as user:
        place.chmod(mode)
        engine = create_outbox_engine(f"sqlite:///{path}", may_create=False)
        with pytest.raises(DatabaseUnavailableError) as refused:
            accepted(Store(engine))
        for each in (path.parent, *path.parent.iterdir()):  # SQLite gives its other files the mode of the first
            each.chmod(0o700)
        accepted(Store(engine))
        engine.dispose()
    message = str(refused.value)
    assert f"the user {user} may not write {place};" in message
    assert str(path.parent) in message
    assert f"give {user} write permission" in message


def test_a_full_disk_is_reported(path: Path, engine: Engine) -> None:
    """With the folder whose disk is full."""

    @event.listens_for(engine, "connect")
    def _limit(connection: object, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1").close()  # type: ignore[attr-defined] # the driver's own

    with pytest.raises(DatabaseUnavailableError, match=f"full.*free disk space in {path.parent}"):
        Store(engine).record([new_row(payload=bytes(1_000_000))])


def test_a_damaged_file_is_reported(path: Path, engine: Engine) -> None:
    """With the remedy."""
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DatabaseUnavailableError, match=f"restore {path} from a copy"):
        accepted(Store(engine))
