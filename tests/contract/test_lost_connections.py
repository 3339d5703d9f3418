"""PostgreSQL connections that end, or become read-only, while idle: they are replaced, and no call fails."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError, SchemaOutdatedError, UnfitEncodingError, UnsafeDatabaseError
from outbox.leases import Leases
from outbox.models import Accepted
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.rows import new_row
from testkit.services import Postgres

Administrator = Callable[[str], list[tuple[object, ...]]]


@pytest.fixture
def engine(new_postgresql: NewDatabase) -> Iterator[Engine]:
    """Return an engine on a fresh PostgreSQL database."""
    engine = create_outbox_engine(new_postgresql())
    yield engine
    engine.dispose()


@pytest.fixture
def administer(engine: Engine) -> Iterator[Administrator]:
    """Return a function that runs SQL from another database; ``{database}`` stands for the outbox."""
    url = engine.url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:

        def run(sql: str) -> list[tuple[object, ...]]:
            cursor = connection.execute(sql.replace("{database}", engine.url.database or ""))
            return cursor.fetchall() if cursor.description else []

        yield run


END_SESSIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'"


def test_sessions_that_ended_while_idle_are_replaced(engine: Engine, administer: Administrator) -> None:
    """After idle_session_timeout, a load balancer or a restart ended them, each call gets a new connection."""
    store, leases = Store(engine), Leases(engine, "relay", 10)
    row = new_row()
    calls: list[Callable[[], object]] = [
        lambda: store.record([row]),
        store.check_writable,
        store.status,
        store.identity,
        lambda: store.pending_at_least(1),
        lambda: leases.take(0),
        lambda: leases.heartbeat(healthy=True),
    ]
    for call in calls:
        call()
        administer(END_SESSIONS)
        call()


def test_a_session_that_became_read_only_is_replaced(engine: Engine, administer: Administrator) -> None:
    """A pooled session from a read-only period is replaced by one that accepts writes."""
    store = Store(engine)
    for _ in range(2):
        with engine.connect() as connection:
            connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.commit()
        (outcome,) = store.record([new_row()])
        assert isinstance(outcome, Accepted)
    store.check_writable()


def test_a_read_only_database_is_refused_at_connect(engine: Engine, administer: Administrator) -> None:
    """So the pool has no such session when the database accepts writes again."""
    store = Store(engine)
    store.record([new_row()])
    administer('ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    administer(END_SESSIONS)
    with pytest.raises(DatabaseUnavailableError, match=r"read-only|accepts no writes"):
        store.record([new_row()])
    administer('ALTER DATABASE "{database}" RESET default_transaction_read_only')
    (outcome,) = store.record([new_row()])
    assert isinstance(outcome, Accepted)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_store_every_character_is_refused(
    encoding: str, engine: Engine, administer: Administrator
) -> None:
    """The first connection raises one line that names the encoding and the remedy."""
    name = f"{engine.url.database}_{encoding.lower()}"
    locale = "LC_COLLATE 'C' LC_CTYPE 'C'"
    administer(f"CREATE DATABASE \"{name}\" ENCODING '{encoding}' {locale} TEMPLATE template0")
    other = create_outbox_engine(engine.url.set(database=name).render_as_string(hide_password=False))
    with pytest.raises(UnfitEncodingError, match=f"{encoding}.*ENCODING 'UTF8'") as refused:
        Store(other).identity()
    assert "\n" not in str(refused.value)
    other.dispose()


def test_every_session_uses_utf8(engine: Engine, administer: Administrator) -> None:
    """Whatever the database or the URL configures."""
    administer("ALTER DATABASE \"{database}\" SET client_encoding = 'LATIN1'")
    url = engine.url.update_query_dict({"client_encoding": "latin1"}).render_as_string(hide_password=False)
    other = create_outbox_engine(url)
    Store(other).record([new_row("山田")])
    with other.connect() as connection:
        assert connection.exec_driver_sql("SELECT interaction_id FROM outbox").scalar_one() == "山田"
    other.dispose()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"username": "nobody_at_all"}, 'role "nobody_at_all" does not exist'),
        ({"host": "no-such-host.invalid"}, "no-such-host.invalid"),
        ({"port": 1}, "refused"),
        ({"query": {"sslmode": "require"}}, "SSL"),
        ({"query": {"sslmode": "bogus"}}, "sslmode"),
    ],
    ids=["database", "role", "host", "port", "tls", "value"],
)
def test_a_wrong_address_is_reported(engine: Engine, change: dict[str, object], reason: str) -> None:
    """With the server's own reason, and never as an outdated schema, which a migration would not remedy."""
    other = create_outbox_engine(engine.url.set(**change).render_as_string(hide_password=False))  # type: ignore[arg-type]
    with pytest.raises(DatabaseUnavailableError, match=reason):
        Store(other).identity()
    other.dispose()


def test_each_host_that_was_tried_is_reported(engine: Engine) -> None:
    """One is unreachable, the other read-only; both are in one line."""
    with engine.connect() as connection:
        name = engine.url.database
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        connection.commit()
    hosts = ("127.0.0.1:1", f"127.0.0.1:{engine.url.port}")
    url = engine.url.set(host=None, port=None).update_query_dict({"host": hosts})
    other = create_outbox_engine(url.render_as_string(hide_password=False))
    with pytest.raises(DatabaseUnavailableError, match=r"refused.*session is read-only.*accepts writes") as refused:
        Store(other).identity()
    assert "\n" not in str(refused.value)
    other.dispose()


def test_an_invalid_host_name_is_reported(engine: Engine) -> None:
    """The resolver refuses it before it sends a query."""
    other = create_outbox_engine(engine.url.set(host="a..b").render_as_string(hide_password=False))
    with pytest.raises(UnsafeDatabaseError, match=r"a\.\.b"):
        Store(other).identity()
    other.dispose()


def test_a_wrong_password_is_reported(tmp_path: Path) -> None:
    """With the server's own reason, without the password."""
    with TemporaryDirectory(prefix="outbox-hba-") as folder:  # the server's user has to read it
        Path(folder).chmod(0o755)
        rules = Path(folder) / "pg_hba.conf"
        rules.write_text("host all outbox 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        server = Postgres(tmp_path / "postgres", hba_file=str(rules))
        server.start()
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE web LOGIN PASSWORD 'right'")
        url = server.url.replace("postgresql://outbox", "postgresql+psycopg://web:canary")
        other = create_outbox_engine(url)
        with pytest.raises(DatabaseUnavailableError, match='password authentication failed for user "web"') as refused:
            Store(other).identity()
        other.dispose()
    finally:
        server.stop()
    assert "canary" not in str(refused.value)


def test_an_old_connection_is_replaced(new_postgresql: NewDatabase) -> None:
    """A pooled connection that is older than the maximum age is not used again."""
    engine = create_outbox_engine(new_postgresql(), max_age_seconds=0)
    sessions = set()
    for _ in range(3):
        with engine.connect() as connection:
            sessions.add(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
    engine.dispose()
    assert len(sessions) == 3


def test_an_unknown_parameter_is_refused_before_connecting(engine: Engine) -> None:
    """The message names the parameter, without its value."""
    url = engine.url.update_query_dict({"sslmod": "canary"}).render_as_string(hide_password=False)
    with pytest.raises(UnsafeDatabaseError, match=r'DATABASE_URL.*"sslmod"') as refused:
        create_outbox_engine(url)
    assert "canary" not in str(refused.value)


def test_a_missing_table_or_column_asks_for_a_migration(engine: Engine, administer: Administrator) -> None:
    """The message names the table or column."""
    store = Store(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE outbox_identity RENAME COLUMN topic TO other")
    with pytest.raises(SchemaOutdatedError, match=r"topic.*relay migrate"):
        store.identity()
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE outbox_identity CASCADE")
    with pytest.raises(SchemaOutdatedError, match=r"outbox_identity.*relay migrate"):
        store.record([new_row()])


def test_colliding_ids_do_not_refuse_rows(engine: Engine) -> None:
    """After a restore that left the sequence behind, the error is temporary for all rows."""
    store = Store(engine)
    store.record([new_row()])
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE outbox ALTER id RESTART WITH 1")
    with pytest.raises(DatabaseUnavailableError, match=r"outbox_pkey.*sequence"):
        store.record([new_row(), new_row()])
