"""Relays are notified in the background, of the rows of several batches at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.notifier import Notifier
from outbox.db.engine import create_outbox_engine
from outbox.models import Accepted, shard_of
from outbox.notifications import Listener
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.waiting import DEADLINE_SECONDS, wait_until
from testkit.web_process import WebProcess

SHARDS = 8
A_TEST = 600.0
"""Longer than any test."""


@pytest.fixture
def engine(new_postgresql: NewDatabase) -> Iterator[Engine]:
    """Return an engine on an outbox with several shards."""
    engine = create_outbox_engine(new_postgresql(SHARDS))
    yield engine
    wait_until(lambda: engine.pool.checkedout() == 0, "no notification is being sent")  # type: ignore[attr-defined]
    engine.dispose()


@pytest.fixture
def listener(engine: Engine) -> Iterator[Listener]:
    """Return a working listener without notifications."""
    own = create_outbox_engine(engine.url.render_as_string(hide_password=False))
    listener = Listener(own)
    wait_until(lambda: listener.wait(0) or listener.is_working, "the listener works")
    while listener.wait(0):
        pass
    yield listener
    listener.close()
    own.dispose()


def accepted(interaction: str) -> list[Accepted]:
    """Return the outcome of a batch with one new row."""
    return [Accepted(1, interaction, duplicate=False)]


def shards(*interactions: str) -> list[int]:
    """Return the shards of these interactions."""
    return sorted({shard_of(interaction, SHARDS) for interaction in interactions})


def test_a_lone_notification_is_sent_at_once(engine: Engine, listener: Listener) -> None:
    """The pause only delays the next one."""
    Notifier(Store(engine), pause_seconds=A_TEST).notify(accepted("a"))
    assert listener.wait(DEADLINE_SECONDS) == shards("a")


def test_nobody_waits_for_a_notification_and_one_covers_several_batches(engine: Engine, listener: Listener) -> None:
    """While the server does not finish the first, others are handed over; they are sent together."""
    notifier = Notifier(Store(engine))
    blocker = create_outbox_engine(engine.url.render_as_string(hide_password=False))
    with blocker.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE outbox_identity IN ACCESS EXCLUSIVE MODE")
        notifier.notify(accepted("a"))
        wait_until(engine.pool.checkedout, "the first is being sent")  # type: ignore[attr-defined]
        for interaction in ("b", "c", "d"):
            notifier.notify(accepted(interaction))
    blocker.dispose()
    assert listener.wait(DEADLINE_SECONDS) == shards("a")
    assert listener.wait(DEADLINE_SECONDS) == shards("b", "c", "d")


def test_notifications_survive_an_error(engine: Engine, listener: Listener) -> None:
    """An id that no database could have stored: its notification is lost, a later one is sent."""
    notifier = Notifier(Store(engine))
    notifier.notify(accepted("\ud800"))

    def is_notified() -> bool:
        notifier.notify(accepted("a"))
        return listener.wait(0.1) == shards("a")

    wait_until(is_notified, "the next one is sent")


def test_a_web_process_notifies_relays(engine: Engine, listener: Listener, tmp_path: Path) -> None:
    """Its processes are forked, and its thread ends with them."""
    web = WebProcess({"DATABASE_URL": engine.url.render_as_string(hide_password=False)}, tmp_path / "web.log")
    assert web.post({"id": "a", "channel": "voice"}).status_code == 202
    assert listener.wait(DEADLINE_SECONDS) == shards("a")
    assert web.stop() == 0
