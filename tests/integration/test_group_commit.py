"""Group commit: concurrent requests share a transaction, and each gets its own outcome."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.group_commit import REQUEST_TIMEOUT_SECONDS, GroupCommitter
from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError, OutboxError
from outbox.models import Accepted, KeyReused, NewRow, RecordOutcome, RowRefused
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.rows import new_row
from testkit.waiting import wait_until

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
    """A store that counts its batches and notifications."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.batches: list[int] = []
        self.notified = 0

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """Count, and do it."""
        self.batches.append(len(rows))
        return super().record(rows)

    def notify(self, outcomes: Sequence[RecordOutcome]) -> None:
        """Count, and do it."""
        super().notify(outcomes)
        self.notified += 1

    def wait_notified(self) -> None:
        """Wait for the notifications, which follow the outcomes: the test must not dispose of the engine earlier."""
        wait_until(lambda: self.notified == len(self.batches), "relays were notified of every batch")


Result = RecordOutcome | OutboxError


def start_requests(committer: GroupCommitter, rows: Sequence[NewRow]) -> Callable[[], list[Result]]:
    """Start a request for each row; the returned function waits for the results, in the order of the rows."""
    results: dict[int, Result] = {}

    def request(number: int, row: NewRow) -> None:
        try:
            results[number] = committer.record(row)
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
    store.wait_notified()
    assert store.batches[:2] == [1, len(rows)]
    return outcomes


def test_a_lone_request_is_committed_at_once(engine: Engine, commits: Callable[[], int]) -> None:
    """Three requests one after the other are three transactions."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store)
    assert [type(committer.record(new_row())) for _ in range(3)] == [Accepted] * 3
    store.wait_notified()
    assert commits() == 3


def test_concurrent_requests_share_one_transaction(engine: Engine, commits: Callable[[], int]) -> None:
    """Twenty queue up while one is committed: two transactions in all."""
    rows = [new_row() for _ in range(20)]
    outcomes = commit_as_one_batch(engine, rows)
    assert commits() == 2
    assert [stored(engine)[outcome.outbox_id] for outcome in outcomes if isinstance(outcome, Accepted)] == [
        row.key for row in rows
    ]


def test_after_a_shared_batch_the_next_one_lingers(engine: Engine) -> None:
    """A row that arrives while the writer lingers is part of the batch; after a lone request it does not linger."""
    store = ObservedStore(engine)
    late: list[Callable[[], list[Result]]] = []

    def linger(_seconds: float) -> None:
        late.append(start_requests(committer, [new_row()]))
        wait_until(lambda: committer.queued == 1, "one more is queued")

    committer = GroupCommitter(store, linger=linger)
    with writers_blocked(engine):
        first = start_requests(committer, [new_row()])
        wait_until(lambda: store.batches, "the writer has taken the first row")
        others = start_requests(committer, [new_row(), new_row()])
        wait_until(lambda: committer.queued == 2, "two are queued", seconds=4)
    first(), others()
    assert store.batches == [1, 2]
    assert not late
    committer.record(new_row())
    assert isinstance(late[0]()[0], Accepted)
    store.wait_notified()
    assert store.batches == [1, 2, 2]


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
    committer = GroupCommitter(store, max_waiting=3)
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
    store.wait_notified()


def test_the_timeout_counts_from_the_arrival(engine: Engine) -> None:
    """A request that arrived ten seconds ago is refused, and not stored."""
    store = ObservedStore(engine)
    committer = GroupCommitter(store)
    row = new_row()
    with pytest.raises(DatabaseUnavailableError):
        committer.record(row, arrived=monotonic() - REQUEST_TIMEOUT_SECONDS)
    assert row.key not in stored(engine).values()
    with writers_blocked(engine):
        waiting = start_requests(committer, [new_row()])
        began = monotonic()
        with pytest.raises(DatabaseUnavailableError):
            committer.record(new_row(), arrived=monotonic() - REQUEST_TIMEOUT_SECONDS + 0.5)
        assert monotonic() - began < 4
    assert isinstance(waiting()[0], Accepted)
    store.wait_notified()
