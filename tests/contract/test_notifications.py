"""Listeners are notified of committed rows, by shard, and of nothing else."""

from collections.abc import Iterator
from time import monotonic

import pytest
from sqlalchemy import Engine, text

from outbox.db.engine import create_outbox_engine
from outbox.models import shard_of
from outbox.notifications import Listener, notify
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.rows import new_row
from testkit.waiting import DEADLINE_SECONDS, wait_until

SHARDS = 5
only_postgresql = pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)


@pytest.fixture
def engine(new_database: NewDatabase) -> Iterator[Engine]:
    """Return an engine on an outbox with several shards."""
    engine = create_outbox_engine(new_database(SHARDS))
    yield engine
    engine.dispose()


@pytest.fixture
def listener(engine: Engine) -> Iterator[Listener]:
    """Return a working listener without notifications."""
    listener = Listener(engine)
    wait_until(lambda: listener.wait(0) or listener.is_working, "the listener works")
    while listener.wait(0):
        pass
    yield listener
    listener.close()


def test_a_listener_is_notified_of_committed_rows(engine: Engine, listener: Listener) -> None:
    """Once, of at least the shards of the new rows."""
    store = Store(engine)
    store.notify(store.record([new_row("a"), new_row("b")]))
    shards = set(listener.wait(DEADLINE_SECONDS))
    assert {shard_of("a", SHARDS), shard_of("b", SHARDS)} <= shards
    assert not listener.wait(0.1)


def test_a_repeated_delivery_is_not_notified(engine: Engine, listener: Listener) -> None:
    """On PostgreSQL, if it added no row."""
    store, row = Store(engine), new_row()
    store.notify(store.record([row]))
    assert listener.wait(DEADLINE_SECONDS)
    store.notify(store.record([row]))
    if engine.dialect.name == "postgresql":
        assert not listener.wait(0.1)


@only_postgresql
def test_invalid_notifications_are_ignored_with_a_warning(
    engine: Engine, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """Any role may notify on the channel: there is one warning, without their text, and the listener still works."""
    with engine.begin() as connection:
        for payload in ("rubbish-canary", "1 x", "9" * 5000, ""):
            connection.execute(text("SELECT pg_notify('outbox_rows', :payload)"), {"payload": payload})
    Store(engine).notify(Store(engine).record([new_row("a")]))
    assert list(wait_until(lambda: listener.wait(0.1), "the listener works")) == [shard_of("a", SHARDS)]
    assert listener.is_working
    assert [record.levelname for record in caplog.records if record.name == "outbox.notifications"] == ["WARNING"]
    assert "canary" not in caplog.text


@only_postgresql
def test_a_listener_is_not_disconnected_for_being_idle(engine: Engine, listener: Listener) -> None:
    """It pings the server once a second, so a server that ends idle sessions keeps it."""
    listener.close()
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{engine.url.database}" SET idle_session_timeout = 5000')
    engine.dispose()
    wait_until(lambda: listener.wait(0) or listener.is_working, "the listener works")
    until = monotonic() + 7
    while monotonic() < until:
        listener.wait(0.5)
        assert listener.is_working


def test_a_listener_stops_listening_when_its_self_test_fails(new_postgresql: NewDatabase) -> None:
    """As behind a pooler that looks like a server: it gives its connection back, and only waits."""
    engine = create_outbox_engine(new_postgresql())
    with engine.begin() as connection:  # notifications are accepted and lost
        connection.exec_driver_sql("CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'")
        connection.exec_driver_sql(f'ALTER DATABASE "{engine.url.database}" SET search_path = public, pg_catalog')
    engine.dispose()
    listener = Listener(engine, self_test_timeout_seconds=0)
    assert not listener.wait(0.1)
    assert not listener.is_working
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # of the pool that engines have
    assert not listener.wait(0.1)
    engine.dispose()


def test_notifying_never_fails_and_a_listener_reconnects(engine: Engine, listener: Listener) -> None:
    """A notification without its table is lost without an error; a listener whose connection was closed works again."""
    listener.close()
    assert not listener.is_working
    wait_until(lambda: listener.wait(0) or listener.is_working, "the listener works again")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox_identity RENAME TO away"))
    notify(engine, ["a"])
