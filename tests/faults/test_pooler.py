"""Web and relay with PostgreSQL behind PgBouncer in transaction mode."""

from time import monotonic

import psycopg
import pytest
from sqlalchemy import make_url

from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError
from outbox.models import Accepted
from outbox.notifications import Listener
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.deployment import NewDeployment
from testkit.load import LoadGenerator
from testkit.rows import new_row, new_rows
from testkit.services import ExternalService, PgBouncer, Postgres


@pytest.fixture
def new_database(new_postgresql: NewDatabase, pgbouncer: PgBouncer) -> NewDatabase:
    """A function that creates databases and returns their URLs through the pooler."""
    return lambda shards=1: pgbouncer.url(new_postgresql(shards))


def test_the_pooler_is_restarted_under_load(new_deployment: NewDeployment, pgbouncer: PgBouncer) -> None:
    """Web and relay recover from each restart by themselves; rows are sent exactly once."""
    deployment = new_deployment(2)
    web, relay = deployment.web(), deployment.relay()
    load = LoadGenerator(lambda: web, senders=4)
    pauses = []
    for end in (pgbouncer.process.kill, pgbouncer.process.stop, pgbouncer.process.kill):
        load.wait_for_accepted(20)
        end()
        pgbouncer.process.start()
        began = monotonic()
        load.wait_for_accepted(4)
        pauses.append(monotonic() - began)
    ids = load.stop()
    deployment.engine.dispose()
    deployment.wait_drained()
    assert relay.running()
    deployment.check_exactly_once(ids)
    assert max(pauses) < 10, pauses


@pytest.mark.parametrize("pgbouncer", [{"default_pool_size": "1"}], ids=["one-session"], indirect=True)
def test_sessions_behind_the_pooler_are_terminated(
    new_deployment: NewDeployment, pgbouncer: PgBouncer, postgres: Postgres | ExternalService
) -> None:
    """Sessions terminated while idle and during commits refuse no interaction and duplicate none.

    A request is tried twice, so it may lose one session, not two. The pooler has one only: it could give the second
    attempt another that is being terminated as well. The next is terminated once the requests are answered that may
    have lost this one.
    """
    deployment = new_deployment(2)
    database = make_url(deployment.url).database
    web = deployment.web()
    deployment.relay()
    load = LoadGenerator(lambda: web, senders=4)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database}" SET idle_session_timeout = 200')
        for _ in range(10):
            load.wait_for_each_sender(5)
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])
    ids = load.stop()
    deployment.engine.dispose()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    assert web.metric('outbox_webhook_requests_total{outcome="unavailable",secret="tests"}') == 0, web.log.read_text()


def test_a_relay_behind_the_pooler_leaves_no_session_listening(
    new_deployment: NewDeployment, postgres: Postgres | ExternalService
) -> None:
    """A relay behind a pooler polls: rows arrive, and it leaves no server session in LISTEN."""
    deployment = new_deployment(1)
    deployment.relay()
    ids = deployment.record(new_rows(20))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    with deployment.engine.connect() as connection:
        for _ in range(20):  # to see each of the pooler's sessions
            assert connection.exec_driver_sql("SELECT pg_listening_channels()").all() == []
            connection.rollback()


def test_a_listener_behind_the_pooler_reports_that_it_does_not_work(new_database: NewDatabase) -> None:
    """It holds no connection, and ``wait`` times out as usual."""
    engine = create_outbox_engine(new_database())
    listener, began = Listener(engine), monotonic()
    for _ in range(3):
        assert not listener.wait(0.1)
    assert not listener.is_working
    assert monotonic() - began >= 0.3
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool
    engine.dispose()


def test_notifications_for_other_listeners_are_not_collected(new_database: NewDatabase) -> None:
    """Notifications on a session that another client left in LISTEN are discarded, not accumulated."""
    engine = create_outbox_engine(new_database())
    with engine.connect() as connection:
        connection.exec_driver_sql("LISTEN outbox_rows")
        connection.commit()
        for _ in range(200):
            connection.exec_driver_sql("NOTIFY outbox_rows, '0'")
            connection.commit()
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.remove_notify_handler(driver._notify_handlers[0])
        assert list(driver.notifies(timeout=0)) == []
    engine.dispose()


def test_the_client_encoding_is_set_behind_the_pooler(new_database: NewDatabase, new_postgresql: NewDatabase) -> None:
    """Text is stored correctly on a session for which another client has set another encoding."""
    url = new_database()
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True, client_encoding="latin1") as other:
        other.execute("SELECT 1")
    engine = create_outbox_engine(url)
    (outcome,) = Store(engine).record([new_row("山田")])
    assert isinstance(outcome, Accepted)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT interaction_id FROM outbox").scalar_one() == "山田"
    engine.dispose()


def test_a_missing_database_is_named_in_the_error(pgbouncer: PgBouncer, new_postgresql: NewDatabase) -> None:
    """The pooler's message names the database."""
    url = make_url(pgbouncer.url(new_postgresql())).set(database="nowhere").render_as_string(hide_password=False)
    engine = create_outbox_engine(url)
    with pytest.raises(DatabaseUnavailableError, match="nowhere"):
        Store(engine).identity()
    engine.dispose()
