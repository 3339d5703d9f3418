"""Fresh, migrated databases of both kinds (fixtures)."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.store import Store
from testkit import ROOT
from testkit.services import ExternalService, Postgres
from testkit.services.java import cached

TEMPLATES = "TEST_TEMPLATES"
"""Variable that names the folder of migrated databases: every process of a run copies the same ones."""
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """The first process of a run makes the folder of templates; those that it starts inherit its name."""
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
    """Makes a migrated SQLite database; ``shards`` as wanted. Returns its URL."""

    def make(shards: int = 1) -> str:
        path = tmp_path / f"outbox-{next(_numbers)}.db"
        with cached(f"sqlite-{shards}", Path(os.environ[TEMPLATES])) as (template, building):
            if building:
                migrate(f"sqlite:///{building}/outbox.db", shards)
        shutil.copy(template / "outbox.db", path)
        identify(f"sqlite:///{path}")
        return f"sqlite:///{path}"

    return make


@pytest.fixture
def new_postgresql(postgres: Postgres | ExternalService) -> NewDatabase:
    """Makes a migrated PostgreSQL database, by cloning a template; ``shards`` as wanted. Returns its URL."""

    def make(shards: int = 1) -> str:
        folder = Path(os.environ[TEMPLATES])
        template = f"template_{folder.name}_{shards}"
        with cached(f"postgresql-{crc32(postgres.url.encode())}-{shards}", folder) as (_, building):
            if building:
                migrate(postgres.create_database(template), shards)
        url = postgres.create_database(f"outbox_{uuid.uuid4().hex[:12]}", template)
        url = url.replace("postgresql://", "postgresql+psycopg://")
        identify(url)
        return url

    return make


def identify(url: str) -> None:
    """A copy of a template is another outbox: give it an identity of its own."""
    engine = create_outbox_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE outbox_identity SET outbox_id = '{uuid.uuid4()}'")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Makes migrated databases; the test runs once for each kind."""
    made: NewDatabase = request.getfixturevalue(f"new_{request.param}")
    return made


@pytest.fixture
def engine(new_database: NewDatabase) -> Iterator[Engine]:
    """An engine on a fresh database with one shard; the test runs once for each kind."""
    engine = create_outbox_engine(new_database())
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    """A store on a fresh database with one shard; the test runs once for each kind."""
    return Store(engine)
