"""Power loss: every row answered with 202 is on disk, not only in the operating system's page cache."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from outbox.db.engine import create_outbox_engine, sqlite, wal_is_safe
from testkit import ROOT
from testkit.databases import NewDatabase
from testkit.load import LoadGenerator
from testkit.outbox import assert_placed
from testkit.preload import build_preload_library
from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.web_process import WebProcess

SECTOR_BYTES = 512
"""The unit that a disk writes atomically."""


@pytest.fixture(scope="session")
def lost_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library that keeps a copy of what was synced."""
    if not wal_is_safe(sqlite.sqlite_version_info):
        skip_or_fail(ServiceError("the SQLite of the wheel pysqlite3"))
    return build_preload_library(ROOT / "tests/faults/lost_cache.c", tmp_path_factory.mktemp("lost-cache"))


def all_lost(_written: bytes, synced: bytes) -> bytes:
    """Return the file as if nothing that was not synced had reached the disk."""
    return synced


def some_lost(written: bytes, synced: bytes) -> bytes:
    """Return the file as if a random half of the unsynced sectors had reached the disk."""
    rng = random.Random(7)
    sectors = range(0, max(len(written), len(synced)), SECTOR_BYTES)
    return b"".join(rng.choice((written, synced))[at : at + SECTOR_BYTES] for at in sectors)


Loss = Callable[[bytes, bytes], bytes]


def power_loss(database: Path, loss: Loss) -> None:
    """Replace the database and its log with what is left on disk; the log's index (-shm) is always lost."""
    for file in (database, Path(f"{database}-wal")):
        durable = Path(f"{file}.durable")
        written = file.read_bytes() if file.exists() else b""
        kept = loss(written, durable.read_bytes()) if durable.exists() else b""
        file.unlink(missing_ok=True)
        if kept:
            file.write_bytes(kept)
    Path(f"{database}-shm").unlink(missing_ok=True)


@pytest.mark.parametrize("loss", [all_lost, some_lost])
def test_accepted_rows_survive_a_lost_page_cache(
    new_sqlite: NewDatabase, lost_cache: Path, tmp_path: Path, loss: Loss
) -> None:
    """After a power loss under load the database is intact and has every accepted row."""
    url = new_sqlite()
    database = Path(url.removeprefix("sqlite:///"))
    shutil.copy(database, f"{database}.durable")
    preload = {"LD_PRELOAD": str(lost_cache), "LOST_CACHE_PREFIX": os.fspath(database)}
    web = WebProcess({"DATABASE_URL": url, **preload}, tmp_path / "web.log")
    load = LoadGenerator(lambda: web)
    try:
        load.wait_for_accepted(500)
    finally:
        accepted = list(load.accepted)
        web.kill()
    load.stop()
    power_loss(database, loss)
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        kept = {row_id for (row_id,) in connection.exec_driver_sql("SELECT id FROM outbox")}
    assert_placed(engine)
    engine.dispose()
    assert {each.outbox_id for each in accepted} - kept == set()
