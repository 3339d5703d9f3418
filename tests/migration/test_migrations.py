"""The migrations build the schema that the code declares."""

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.db.schema import metadata
from testkit import ROOT
from testkit.databases import NewDatabase, migrate
from testkit.services import ExternalService, Postgres


def test_head_equals_the_metadata(engine: Engine) -> None:
    """Tables, columns and indexes are the same."""
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_head_has_the_same_checks_as_the_metadata(engine: Engine) -> None:
    """Alembic does not compare CHECK constraints, so this test does, by name."""
    from sqlalchemy import inspect

    declared = {
        (table.name, constraint.name)
        for table in metadata.tables.values()
        for constraint in table.constraints
        if constraint.__visit_name__ in ("check_constraint", "table_or_column_check_constraint")
    }
    found = {(name, check["name"]) for name in metadata.tables for check in inspect(engine).get_check_constraints(name)}
    assert declared
    assert found == {(table, str(name)) for table, name in declared}


def test_concurrent_migrations_run_once(postgres: Postgres | ExternalService) -> None:
    """One process migrates, the other finds the work done."""
    url = postgres.create_database(f"twice_{uuid.uuid4().hex[:8]}")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: migrate(url, 3), range(2)))
    engine = create_outbox_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM outbox_shard").scalar_one() == 3
    engine.dispose()


def test_the_large_tables_are_vacuumed_early(new_postgresql: NewDatabase) -> None:
    """The server's default waits until a fifth of the rows is dead."""
    engine = create_outbox_engine(new_postgresql())
    with engine.connect() as connection:
        early = connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE 'autovacuum_vacuum_scale_factor=0.02' = ANY(reloptions)"
        ).scalars()
        assert sorted(early) == ["outbox", "outbox_inference_call", "outbox_pending"]
    engine.dispose()


@pytest.mark.parametrize("shards", ["0", "100", "many"])
def test_an_invalid_number_of_shards_stops_the_migration(shards: str, tmp_path: object) -> None:
    """RELAY_SHARDS is checked before anything is built."""
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/x.db", "RELAY_SHARDS": shards, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "relay", "migrate"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode
    assert f"RELAY_SHARDS='{shards}'" in done.stderr
