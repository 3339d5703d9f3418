"""Group commit: concurrent requests share a transaction, and each gets its own outcome."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.group_commit import REQUEST_TIMEOUT_SECONDS, RESERVED_THREADS, Arrival, GroupCommitter
from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError, OutboxError
from outbox.models import Accepted, KeyReused, NewRow, RecordOutcome, RowRefused
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.rows import new_row
from testkit.waiting import wait_until

A_TEST = 600.0
"""Longer than any test."""
BIG = b'{"id": "%s"}' % (b"x" * 20_000)


@pytest.fixture
def commits(engine: Engine) -> Callable[[], int]:
    """Number of transactions that have inserted rows, as the database reports it."""
    seen: list[str] = []
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _record: connection.set_trace_callback(seen.append))
        # One statement in each transaction; SQLite reports it again for its trigger.
        return lambda: len({text for text in seen if "INSERT INTO outbox (" in text})

    def transactions() -> int:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT count(DISTINCT xmin::text) FROM outbox").scalar_one())

    return transactions


@contextmanager
def writers_blocked(engine: Engine) -> Iterator[None]:
    """Block every writer by a lock of another connection."""
    other = create_outbox_engine(engine.url.render_as_string(hide_password=False))
    with other.begin() as connection:  # on SQLite BEGIN IMMEDIATE is enough
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE")
        yield
    other.dispose()


class ObservedStore(Store):
    """A store that counts its batches."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.batches: list[int] = []

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """Count, and do it."""
        self.batches.append(len(rows))
        return super().record(rows)


Result = RecordOutcome | OutboxError


def start_requests(
    committer: GroupCommitter, rows: Sequence[NewRow], arrivals: Sequence[Arrival] = ()
) -> Callable[[], list[Result]]:
    """Start a request for each row; the returned function waits for the results, in the order of the rows."""
    results: dict[int, Result] = {}

    def request(number: int, row: NewRow) -> None:
        try:
            results[number] = committer.record(row, arrivals[number] if arrivals else None)
        except OutboxError as error:
            results[number] = error

    threads = [threading.Thread(target=request, args=item) for item in enumerate(rows)]
    for thread in threads:
        thread.start()

    def wait() -> list[Result]:
        for thread in threads:
            thread.join()
        return [results[number] for number in range(len(rows))]

    return wait


def stored(engine: Engine) -> dict[int, bytes]:
    """Keys of the stored rows by id, as another connection sees them."""
    other = create_outbox_engine(engine.url.render_as_string(hide_password=False))
    with other.connect() as connection:
        found: Any = connection.exec_driver_sql("SELECT id, key FROM outbox").all()
    other.dispose()
    return {row.id: bytes(row.key) for row in found}


def commit_as_one_batch(engine: Engine, rows: Sequence[NewRow]) -> list[Result]:
    """Commit the rows in one batch: they queue up while the writer is blocked with another row."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store)
    with writers_blocked(engine):
        first = start_requests(committer, [new_row()])
        wait_until(lambda: store.batches, "the writer has taken the first row")
        rest = start_requests(committer, rows)
        wait_until(lambda: committer.queued == len(rows), "the others are queued", seconds=4)
    assert isinstance(first()[0], Accepted)
    outcomes = rest()
    assert store.batches[:2] == [1, len(rows)]
    return outcomes


def test_a_lone_request_is_committed_at_once(engine: Engine, commits: Callable[[], int]) -> None:
    """Three requests one after the other are three transactions, none of which waits for anything."""
    committer = GroupCommitter(Store(engine), linger_seconds=A_TEST)
    outcomes = [committer.record(new_row(), committer.expect(monotonic())) for _ in range(3)]
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 3
    assert commits() == 3


def test_concurrent_requests_share_one_transaction(engine: Engine, commits: Callable[[], int]) -> None:
    """Twenty queue up while one is committed: two transactions in all."""
    rows = [new_row() for _ in range(20)]
    outcomes = commit_as_one_batch(engine, rows)
    assert commits() == 2
    assert [stored(engine)[outcome.outbox_id] for outcome in outcomes if isinstance(outcome, Accepted)] == [
        row.key for row in rows
    ]


def test_a_batch_waits_for_requests_under_way(engine: Engine) -> None:
    """Two have arrived: the first row is not committed before the second."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store, linger_seconds=A_TEST)
    one, two = committer.expect(monotonic()), committer.expect(monotonic())
    first = start_requests(committer, [new_row()], [one])
    wait_until(lambda: committer.queued == 1, "the first waits")
    assert isinstance(committer.record(new_row(), two), Accepted)
    assert isinstance(first()[0], Accepted)
    assert store.batches == [2]


def test_a_batch_does_not_wait_for_a_request_that_ends_otherwise(engine: Engine) -> None:
    """One is refused before its commit, and dismissed twice: only the one that remains is waited for."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store, linger_seconds=A_TEST)
    one, two, refused = (committer.expect(monotonic()) for _ in range(3))
    first = start_requests(committer, [new_row()], [one])
    wait_until(lambda: committer.queued == 1, "the first waits")
    committer.dismiss(refused)
    committer.dismiss(refused)
    assert isinstance(committer.record(new_row(), two), Accepted)
    assert isinstance(first()[0], Accepted)
    committer.dismiss(two)
    assert isinstance(committer.record(new_row()), Accepted)
    last = committer.expect(monotonic())
    second = start_requests(committer, [new_row()])
    wait_until(lambda: committer.queued == 1, "the second waits")
    committer.dismiss(last)
    assert isinstance(second()[0], Accepted)
    assert store.batches == [2, 1, 1]


def test_a_request_that_came_too_late_is_not_waited_for(engine: Engine) -> None:
    """It is refused because it arrived ten seconds ago, and dismissed as every request is in the end."""
    committer = GroupCommitter(Store(engine), linger_seconds=A_TEST)
    late = committer.expect(monotonic() - REQUEST_TIMEOUT_SECONDS)
    with pytest.raises(DatabaseUnavailableError):
        committer.record(new_row(), late)
    committer.dismiss(late)
    assert isinstance(committer.record(new_row()), Accepted)


def test_a_batch_waits_only_briefly(engine: Engine) -> None:
    """A request that is under way for long does not hold up others."""
    committer = GroupCommitter(Store(engine))
    committer.expect(monotonic())
    assert isinstance(committer.record(new_row()), Accepted)


def test_a_batch_does_not_wait_if_every_thread_waits(engine: Engine) -> None:
    """A third request has arrived, but there are two threads."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store, threads=2, linger_seconds=A_TEST)
    arrivals = [committer.expect(monotonic()) for _ in range(3)]
    outcomes = start_requests(committer, [new_row(), new_row()], arrivals[:2])()
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 2
    assert store.batches == [2]


def test_each_request_gets_its_own_outcome(engine: Engine) -> None:
    """New row, duplicate and reused key in one transaction."""
    row = new_row()
    reused = row._replace(payload=b"another")
    one, two, other, last = commit_as_one_batch(engine, [row, row, reused, new_row()])
    assert isinstance(one, Accepted)
    assert isinstance(two, Accepted)
    assert one.outbox_id == two.outbox_id
    assert sorted([one.duplicate, two.duplicate]) == [False, True]
    assert isinstance(other, KeyReused)
    assert isinstance(last, Accepted)


def test_a_refused_row_fails_alone(engine: Engine) -> None:
    """The other rows of its batch are committed."""
    rows = [new_row() for _ in range(10)]
    rows[4] = new_row(timestamp_ms=-1)
    outcomes = commit_as_one_batch(engine, rows)
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 4 + [RowRefused] + [Accepted] * 5
    assert rows[4].key not in stored(engine).values()
    assert {row.key for row in rows} - {rows[4].key} <= set(stored(engine).values())


def test_on_a_full_database_the_accepted_rows_are_the_stored_ones(new_sqlite: NewDatabase) -> None:
    """Some requests are accepted and some fail; exactly the accepted rows are stored."""
    engine = create_outbox_engine(new_sqlite())

    @event.listens_for(engine, "connect")
    def _limit_size(connection: Any, _record: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 200}").close()

    rows = [new_row(payload=BIG) for _ in range(80)]
    committer = GroupCommitter(Store(engine))
    outcomes = [
        outcome for start in range(0, 80, 8) for outcome in start_requests(committer, rows[start : start + 8])()
    ]
    accepted = {row.key for row, outcome in zip(rows, outcomes, strict=True) if isinstance(outcome, Accepted)}
    assert accepted == set(stored(engine).values())
    assert 0 < len(accepted) < 80
    engine.dispose()


def test_commits_recover_after_a_failure(new_sqlite: NewDatabase) -> None:
    """While a table is missing requests fail; once it is back, the next one succeeds."""
    engine = create_outbox_engine(new_sqlite())
    committer = GroupCommitter(Store(engine))
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE outbox RENAME TO renamed")
    with pytest.raises(OutboxError):
        committer.record(new_row())
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE renamed RENAME TO outbox")
    assert isinstance(committer.record(new_row()), Accepted)
    engine.dispose()


def test_only_max_waiting_requests_wait_for_a_hung_commit(engine: Engine) -> None:
    """One more waits until the commit counts as hung; further requests are refused at once."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store, threads=3 + RESERVED_THREADS)
    with writers_blocked(engine):
        first = start_requests(committer, [new_row()])
        wait_until(lambda: store.batches, "the writer has taken the first row")
        others = start_requests(committer, [new_row(), new_row()])
        wait_until(lambda: committer.queued == 2, "two more are queued")
        began = monotonic()
        with pytest.raises(DatabaseUnavailableError):
            committer.record(new_row())
        assert monotonic() - began < 4
        began = monotonic()
        for _ in range(10):
            with pytest.raises(DatabaseUnavailableError):
                committer.record(new_row())
        assert monotonic() - began < 1
    assert [type(outcome) for outcome in (*first(), *others())] == [Accepted] * 3
    assert isinstance(committer.record(new_row()), Accepted)


def test_the_timeout_counts_from_the_arrival(engine: Engine) -> None:
    """A request that arrived ten seconds ago is refused, and not stored."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store)
    row = new_row()
    with pytest.raises(DatabaseUnavailableError):
        committer.record(row, Arrival(monotonic() - REQUEST_TIMEOUT_SECONDS))
    assert row.key not in stored(engine).values()
    with writers_blocked(engine):
        waiting = start_requests(committer, [new_row()])
        began = monotonic()
        with pytest.raises(DatabaseUnavailableError):
            committer.record(new_row(), Arrival(monotonic() - REQUEST_TIMEOUT_SECONDS + 0.5))
        assert monotonic() - began < 4
    assert isinstance(waiting()[0], Accepted)
