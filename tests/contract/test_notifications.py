"""The bell: who listens hears of committed rows, by shard, and of nothing else."""

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


@pytest.fixture
def engine(new_database: NewDatabase) -> Iterator[Engine]:
    """An outbox of several shards."""
    made = create_outbox_engine(new_database(SHARDS))
    yield made
    made.dispose()


@pytest.fixture
def listener(engine: Engine) -> Iterator[Listener]:
    """A bell that works and has nothing to tell."""
    made = Listener(engine)
    wait_until(lambda: made.wait(0) or made.is_working, "the bell works")
    while made.wait(0):
        pass
    yield made
    made.close()


def test_committed_rows_are_heard_of(engine: Engine, listener: Listener) -> None:
    """The shards of new rows are told once, at least those; then there is silence."""
    store = Store(engine)
    store.notify(store.record([new_row("a"), new_row("b")]))
    told = set(listener.wait(DEADLINE_SECONDS))
    assert {shard_of("a", SHARDS), shard_of("b", SHARDS)} <= told
    assert not listener.wait(0.1)


def test_a_repeated_delivery_is_not_told(engine: Engine, listener: Listener) -> None:
    """On PostgreSQL what added no row rings no bell."""
    store, row = Store(engine), new_row()
    store.notify(store.record([row]))
    assert listener.wait(DEADLINE_SECONDS)
    store.notify(store.record([row]))
    if engine.dialect.name == "postgresql":
        assert not listener.wait(0.1)


def test_what_others_notify_is_ignored_and_named(
    engine: Engine, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """Any role may notify on the channel: one warning, without what was sent, and the bell works on."""
    if engine.dialect.name == "sqlite":
        return
    with engine.begin() as connection:
        for payload in ("rubbish-canary", "1 x", "9" * 5000, ""):
            connection.execute(text("SELECT pg_notify('outbox_rows', :payload)"), {"payload": payload})
    Store(engine).notify(Store(engine).record([new_row("a")]))
    assert list(wait_until(lambda: listener.wait(0.1), "the bell works")) == [shard_of("a", SHARDS)]
    assert listener.is_working
    assert [record.levelname for record in caplog.records if record.name == "outbox.notifications"] == ["WARNING"]
    assert "canary" not in caplog.text


def test_a_listener_is_not_cut_for_being_idle(engine: Engine, listener: Listener) -> None:
    """It asks once a second, so that a server that ends idle sessions leaves it alone."""
    if engine.dialect.name == "sqlite":
        return
    listener.close()
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{engine.url.database}" SET idle_session_timeout = 5000')
    engine.dispose()
    wait_until(lambda: listener.wait(0) or listener.is_working, "the bell works")
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


def test_a_broken_bell_fails_no_record_and_is_mended(engine: Engine, listener: Listener) -> None:
    """Without its table the ring is silent, not an error; a listener whose connection is cut hears again."""
    listener.close()
    assert not listener.is_working
    wait_until(lambda: listener.wait(0) or listener.is_working, "the bell works again")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox_identity RENAME TO away"))
    notify(engine, ["a"])
