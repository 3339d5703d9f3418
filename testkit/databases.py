"""Fixtures: fresh, migrated databases of both kinds."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import pytest
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.errors import OutboxError
from outbox.store import Store
from testkit import ROOT
from testkit.outbox import assert_placed
from testkit.services import ExternalService, Postgres
from testkit.services.java import cached

TEMPLATES = "TEST_TEMPLATES"
"""Environment variable with the folder of migrated databases, which all processes of a test run copy."""
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Create the folder of templates in the first process of a run; the others inherit its name."""
    if TEMPLATES not in os.environ:
        os.environ[TEMPLATES] = folder = tempfile.mkdtemp(prefix="outbox-templates-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def migrate(url: str, shards: int) -> None:
    """Run the release phase on a database."""
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_SHARDS": str(shards), "LOG_LEVEL": "WARNING"}
    subprocess.run([sys.executable, "-m", "relay", "migrate"], cwd=ROOT, env=environ, check=True, stdout=sys.stderr)


NewDatabase = Callable[..., str]


@pytest.fixture
def new_sqlite(tmp_path: Path) -> NewDatabase:
    """Return a function that creates a migrated SQLite database with ``shards`` shards and returns its URL."""
    return lambda shards=1: create_sqlite(tmp_path, shards)


def create_sqlite(folder: Path, shards: int = 1) -> str:
    """Create a migrated SQLite database in a folder, and return its URL."""
    path = folder / f"outbox-{next(_numbers)}.db"
    with cached(f"sqlite-{shards}", Path(os.environ[TEMPLATES])) as (template, building):
        if building:
            migrate(f"sqlite:///{building}/outbox.db", shards)
    shutil.copy(template / "outbox.db", path)
    assign_new_outbox_id(f"sqlite:///{path}")
    return f"sqlite:///{path}"


@pytest.fixture
def new_postgresql(postgres: Postgres | ExternalService) -> NewDatabase:
    """Return a function that clones a migrated PostgreSQL database with ``shards`` shards and returns its URL."""

    def make(shards: int = 1) -> str:
        folder = Path(os.environ[TEMPLATES])
        template = f"template_{folder.name}_{shards}"
        with cached(f"postgresql-{crc32(postgres.url.encode())}-{shards}", folder) as (_, building):
            if building:
                migrate(postgres.create_database(template), shards)
        url = postgres.create_database(f"outbox_{uuid.uuid4().hex[:12]}", template)
        url = url.replace("postgresql://", "postgresql+psycopg://")
        assign_new_outbox_id(url)
        return url

    return make


def assign_new_outbox_id(url: str) -> None:
    """Give a copy of a template its own identity, as it is another outbox."""
    engine = create_outbox_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE outbox_identity SET outbox_id = '{uuid.uuid4()}'")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Return a function that creates migrated databases; the test runs once for each kind."""
    create: NewDatabase = request.getfixturevalue(f"new_{request.param}")
    return create


@pytest.fixture
def engine(new_database: NewDatabase) -> Iterator[Engine]:
    """Return an engine on a fresh database with one shard; the test runs once for each kind.

    After the test each row has exactly one state, unless the test left the database unusable.
    """
    engine = create_outbox_engine(new_database())
    yield engine
    with suppress(OutboxError):
        assert_placed(engine)
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    """Return a store on a fresh database with one shard; the test runs once for each kind."""
    return Store(engine)
