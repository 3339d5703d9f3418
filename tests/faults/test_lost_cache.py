"""Power loss: what was answered with 202 is on the disk, not only in the operating system's cache."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from outbox.db.engine import create_outbox_engine, sqlite, wal_is_safe
from testkit import ROOT
from testkit.databases import NewDatabase
from testkit.load import LoadGenerator
from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

SECTOR_BYTES = 512
"""What a disk writes whole."""


@pytest.fixture(scope="session")
def lost_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that keeps what was synced, apart from what was only written."""
    library = tmp_path_factory.mktemp("lost-cache") / "lost_cache.so"
    compiler = shutil.which("cc")
    if compiler is None:
        skip_or_fail(ServiceError("a C compiler (cc): apt-get install gcc"))
    if sys.platform != "linux" or not wal_is_safe(sqlite.sqlite_version_info):
        skip_or_fail(ServiceError("Linux, whose loader takes LD_PRELOAD, and the SQLite of the wheel pysqlite3"))
    source = ROOT / "tests" / "faults" / "lost_cache.c"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], check=True)
    return library


def all_lost(_written: bytes, synced: bytes) -> bytes:
    """Nothing that was not synced had reached the disk."""
    return synced


def some_lost(written: bytes, synced: bytes) -> bytes:
    """Of what was not synced, some sectors had reached the disk and some had not, in no order."""
    chance = random.Random(7)
    sectors = range(0, max(len(written), len(synced)), SECTOR_BYTES)
    return b"".join(chance.choice((written, synced))[at : at + SECTOR_BYTES] for at in sectors)


Loss = Callable[[bytes, bytes], bytes]


def power_loss(database: Path, loss: Loss) -> None:
    """Put in place what the disk has kept. The index of the log (-shm) is memory: it is gone in any case."""
    for file in (database, Path(f"{database}-wal")):
        durable = Path(f"{file}.durable")
        written = file.read_bytes() if file.exists() else b""
        kept = loss(written, durable.read_bytes()) if durable.exists() else b""
        file.unlink(missing_ok=True)
        if kept:
            file.write_bytes(kept)
    Path(f"{database}-shm").unlink(missing_ok=True)


@pytest.mark.parametrize("loss", [all_lost, some_lost])
def test_what_was_accepted_survives_a_lost_page_cache(
    new_sqlite: NewDatabase, lost_cache: Path, tmp_path: Path, loss: Loss
) -> None:
    """The web process dies with the machine's cache, under load: every 202 is in the database that is left."""
    url = new_sqlite()
    database = Path(url.removeprefix("sqlite:///"))
    shutil.copy(database, f"{database}.durable")
    preload = {"LD_PRELOAD": str(lost_cache), "LOST_CACHE_PREFIX": os.fspath(database)}
    web = WebProcess({"DATABASE_URL": url, **preload}, tmp_path / "web.log")
    load = LoadGenerator(lambda: web)
    try:
        wait_until(lambda: len(load.accepted) >= 500, "the load flows")
    finally:
        accepted = list(load.accepted)
        web.kill()
    load.stop()
    power_loss(database, loss)
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        kept = {row_id for (row_id,) in connection.exec_driver_sql("SELECT id FROM outbox")}
    engine.dispose()
    assert {each.outbox_id for each in accepted} <= kept
