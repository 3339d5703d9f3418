"""What ``relay check`` says about programs that can read the outbox beside the relay, on a server of its own."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import pq
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from relay.check.finding import Finding, Status
from relay.check.replication import check_replication
from testkit.databases import migrate
from testkit.services import Postgres

CREATE_SLOT = "SELECT pg_create_logical_replication_slot('capture', 'pgoutput')"
START = b"START_REPLICATION SLOT capture LOGICAL 0/0 (proto_version '1', publication_names 'outbox')"


@pytest.fixture
def url(own_postgres: Postgres) -> str:
    """An outbox, as psycopg takes its URL."""
    url = own_postgres.create_database("outbox")
    migrate(url.replace("postgresql://", "postgresql+psycopg://"), shards=1)
    return url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The relay's access to the outbox: as a role without any right on replication."""
    execute(url, "CREATE ROLE plain LOGIN")
    engine = create_outbox_engine(url.replace("postgresql://outbox@", "postgresql+psycopg://plain@"))
    yield engine
    engine.dispose()


def execute(url: str, *statements: str) -> None:
    """Run statements as an administrator of the server."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def only(findings: list[Finding]) -> Finding:
    """The only finding."""
    (found,) = findings
    return found


def test_a_slot_that_can_read_the_outbox_is_a_warning(url: str, engine: Engine) -> None:
    """A slot counts once a publication has inserted rows of the outbox; without a reader, it says what is retained."""
    assert only(check_replication(engine)).status is Status.OK
    execute(url, "CREATE PUBLICATION of_all FOR ALL TABLES")  # nobody can read it without a slot
    assert only(check_replication(engine)).status is Status.OK
    execute(url, "DROP PUBLICATION of_all", CREATE_SLOT, "CREATE PUBLICATION other FOR TABLE outbox_audit",
            "CREATE PUBLICATION changes FOR TABLE outbox WITH (publish = 'update')")  # fmt: skip
    assert only(check_replication(engine)).status is Status.OK
    execute(url, "CREATE PUBLICATION outbox FOR TABLE outbox", "CREATE PUBLICATION everything FOR ALL TABLES")
    execute(url, "SELECT pg_logical_emit_message(false, 'a test', repeat('x', 3000000))")
    idle = only(check_replication(engine))
    assert idle.status is Status.WARNING
    assert "slot capture (pgoutput, publication everything, outbox) can read the outbox" in idle.detail
    assert "3 MB of write-ahead log are retained" in idle.detail
    assert "SELECT pg_drop_replication_slot('capture')" in idle.remedy

    reader = pq.PGconn.connect(f"{url}?replication=database".encode())
    assert reader.exec_(START).status == pq.ExecStatus.COPY_BOTH
    busy = only(check_replication(engine))
    assert busy.status is Status.WARNING
    assert "its reader is connected" in busy.detail
    assert "send every interaction twice" in busy.remedy
    reader.finish()


def test_slots_that_may_not_be_listed_are_unknown(url: str, engine: Engine) -> None:
    """Every role may list slots and publications by default; where that was revoked, the right is named."""
    execute(url, "REVOKE SELECT ON pg_replication_slots FROM PUBLIC")
    found = only(check_replication(engine))
    assert found.status is Status.UNKNOWN
    assert "permission denied" in found.detail
    assert "SELECT on pg_replication_slots" in found.remedy


def test_sqlite_has_no_slots(tmp_path: Path) -> None:
    """Nothing is said about them."""
    engine = create_outbox_engine(f"sqlite:///{tmp_path}/outbox.db")
    assert check_replication(engine) == []
    engine.dispose()
