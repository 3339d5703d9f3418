"""A database link that discards everything: statements time out, and the next one uses a new connection."""

from collections.abc import Iterator
from time import monotonic

import pytest
from sqlalchemy import make_url

from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.proxy import BOTH_DIRECTIONS, Direction, Proxy
from testkit.rows import new_row

ANSWER_SECONDS = 1.0


@pytest.fixture
def link(new_postgresql: NewDatabase) -> Iterator[tuple[Proxy, Store]]:
    """A proxy in front of a PostgreSQL database, and a store that connects through it with a short timeout."""
    url = make_url(new_postgresql())
    proxy = Proxy(url.port or 5432)
    proxied = url.set(port=proxy.port).render_as_string(hide_password=False)
    engine = create_outbox_engine(proxied, answer_seconds=ANSWER_SECONDS)
    yield proxy, Store(engine)
    engine.dispose()
    proxy.close()


@pytest.mark.parametrize(
    "directions",
    [frozenset({Direction.TO_SERVICE}), frozenset({Direction.FROM_SERVICE}), BOTH_DIRECTIONS],
    ids=["requests", "responses", "both"],
)
def test_statements_on_a_half_open_link_time_out(link: tuple[Proxy, Store], directions: frozenset[Direction]) -> None:
    """A statement fails within seconds; once the link works again, so does the next attempt."""
    proxy, store = link
    store.record([new_row()])
    row, began = new_row(), monotonic()
    with proxy.half_open(directions), pytest.raises(DatabaseUnavailableError):
        store.record([row])
    assert monotonic() - began < 10 * ANSWER_SECONDS
    assert len(store.record([row])) == 1
    assert store.status()[0].pending == 2, "the repeated row is stored once"
