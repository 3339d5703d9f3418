"""Fixtures of every test: services, and fresh, migrated databases of both kinds."""

import itertools
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from outbox.engine import create_outbox_engine
from outbox.store import Store
from tests.services import Given, Postgres

pytest_plugins = ["tests.services.fixtures", "tests.simulator.fixtures", "tests.world"]

ROOT = Path(__file__).parents[1]
_numbers = itertools.count(1)


def migrate(url: str, shards: int) -> None:
    """Run the release phase on a database."""
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_SHARDS": str(shards), "LOG_LEVEL": "WARNING"}
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, env=environ, check=True)


NewDatabase = Callable[..., str]


@pytest.fixture(scope="session")
def _sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    folder = tmp_path_factory.mktemp("sqlite-templates")

    def template(shards: int) -> Path:
        path = folder / f"{shards}.db"
        if not path.exists():
            migrate(f"sqlite:///{path}", shards)
        return path

    return template


@pytest.fixture
def new_sqlite(tmp_path: Path, _sqlite_templates: Callable[[int], Path]) -> NewDatabase:
    """Makes a migrated SQLite database; ``shards`` as wanted. Returns its URL."""

    def make(shards: int = 1) -> str:
        path = tmp_path / f"outbox-{next(_numbers)}.db"
        shutil.copy(_sqlite_templates(shards), path)
        identify(f"sqlite:///{path}")
        return f"sqlite:///{path}"

    return make


@pytest.fixture(scope="session")
def _postgres_templates() -> set[tuple[str, int]]:
    return set()


@pytest.fixture
def new_postgresql(postgres: Postgres | Given, _postgres_templates: set[tuple[str, int]]) -> NewDatabase:
    """Makes a migrated PostgreSQL database, by cloning a template; ``shards`` as wanted. Returns its URL."""

    def make(shards: int = 1) -> str:
        run = f"{os.getpid()}_{shards}"
        if (run, shards) not in _postgres_templates:
            migrate(postgres.create_database(f"template_{run}"), shards)
            _postgres_templates.add((run, shards))
        url = postgres.create_database(f"outbox_{uuid.uuid4().hex[:12]}", f"template_{run}")
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
