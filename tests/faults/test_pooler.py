"""PostgreSQL behind PgBouncer in transaction mode: web and relay work, and leave nothing on its sessions."""

from functools import partial
from itertools import count
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
from testkit.waiting import wait_until

numbers = count()


@pytest.fixture
def new_database(new_postgresql: NewDatabase, pgbouncer: PgBouncer) -> NewDatabase:
    """Databases whose address is the pooler's."""
    return lambda shards=1: pgbouncer.url(new_postgresql(shards))


def goes_on(load: LoadGenerator, until: int) -> bool:
    """Whether so many were accepted."""
    return len(load.accepted) >= until


def test_the_pooler_is_restarted_under_load(new_deployment: NewDeployment, pgbouncer: PgBouncer) -> None:
    """Killed and stopped in turn, with commits under way: exact, and on again without a restart of ours."""
    deployment = new_deployment(2)
    web, relay = deployment.web(), deployment.relay()
    load = LoadGenerator(lambda: web, senders=4)
    pauses = []
    for end in (pgbouncer.process.kill, pgbouncer.process.stop, pgbouncer.process.kill):
        wait_until(partial(goes_on, load, len(load.accepted) + 20), "the load is on")
        end()
        pgbouncer.process.start()
        began = monotonic()
        wait_until(partial(goes_on, load, len(load.accepted) + 4), "interactions are taken again")
        pauses.append(monotonic() - began)
    ids = load.stop()
    deployment.engine.dispose()
    deployment.wait_drained()
    assert relay.running()
    deployment.check_exactly_once(ids)
    print("taken again after", [f"{pause:.2f} s" for pause in pauses])  # noqa: T201 - a figure of the run
    assert max(pauses) < 10


def test_the_sessions_behind_the_pooler_are_cut(
    new_deployment: NewDeployment, pgbouncer: PgBouncer, postgres: Postgres | ExternalService
) -> None:
    """While they are idle, and in the middle of commits: nobody is refused, nothing is doubled."""
    deployment = new_deployment(2)
    database = make_url(deployment.url).database
    web = deployment.web()
    deployment.relay()
    load = LoadGenerator(lambda: web, senders=4)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database}" SET idle_session_timeout = 200')
        for _ in range(10):
            wait_until(partial(goes_on, load, len(load.accepted) + 20), "the load is on")
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])
    ids = load.stop()
    deployment.engine.dispose()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_a_relay_behind_the_pooler_leaves_no_session_listening(
    new_deployment: NewDeployment, postgres: Postgres | ExternalService
) -> None:
    """It polls instead: rows arrive, and no session of the server listens for nobody."""
    deployment = new_deployment(1)
    deployment.relay()
    ids = deployment.record(new_rows(20))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    with deployment.engine.connect() as connection:
        for _ in range(20):  # whichever session it is given
            assert connection.exec_driver_sql("SELECT pg_listening_channels()").all() == []
            connection.rollback()


def test_a_bell_behind_the_pooler_is_not_heard(new_database: NewDatabase) -> None:
    """It knows at once, holds no connection, and goes on waiting as long as it is asked to."""
    engine = create_outbox_engine(new_database())
    listener, began = Listener(engine), monotonic()
    for _ in range(3):
        assert not listener.wait(0.1)
    assert not listener.is_working
    assert monotonic() - began >= 0.3
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # of the pool that engines have
    engine.dispose()


def test_notifications_that_others_listen_for_are_not_collected(new_database: NewDatabase) -> None:
    """A pooler's session that somebody left listening gives them to whoever uses it: they are dropped."""
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


def test_characters_and_times_are_right_behind_the_pooler(
    new_database: NewDatabase, new_postgresql: NewDatabase
) -> None:
    """Whatever the clients before have set on a session."""
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


def test_a_missing_database_is_named_by_the_pooler(pgbouncer: PgBouncer, new_postgresql: NewDatabase) -> None:
    """Its reason, not one of ours."""
    url = make_url(pgbouncer.url(new_postgresql())).set(database="nowhere").render_as_string(hide_password=False)
    engine = create_outbox_engine(url)
    with pytest.raises(DatabaseUnavailableError, match="nowhere"):
        Store(engine).identity()
    engine.dispose()
