"""Group commit: requests share a transaction, each keeps its own outcome."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.group_commit import PATIENCE_SECONDS, GroupCommitter
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
    """How many transactions have recorded rows, as the database itself tells."""
    seen: list[str] = []
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _record: connection.set_trace_callback(seen.append))
        return lambda: sum("INSERT INTO outbox" in text for text in seen)  # each commits by itself

    def transactions() -> int:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT count(DISTINCT xmin::text) FROM outbox").scalar_one())

    return transactions


@contextmanager
def writers_held(engine: Engine) -> Iterator[None]:
    """Another connection keeps every writer waiting."""
    other = create_outbox_engine(engine.url.render_as_string(hide_password=False))
    with other.begin() as connection:  # SQLite: BEGIN IMMEDIATE is enough
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE")
        yield
    other.dispose()


class TellingStore(Store):
    """A store that tells when it has been given rows, and when relays were told of them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.batches: list[int] = []
        self.notified = 0

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """As any store."""
        self.batches.append(len(rows))
        return super().record(rows)

    def notify(self, outcomes: Sequence[RecordOutcome]) -> None:
        """As any store."""
        super().notify(outcomes)
        self.notified += 1

    def wait_rung(self) -> None:
        """The recorder rings after it has answered: wait, so that it does not do so on an engine that is gone."""
        wait_until(lambda: self.notified == len(self.batches), "relays were told of every batch")


Recorded = RecordOutcome | OutboxError


def recording(recorder: GroupCommitter, rows: Sequence[NewRow]) -> Callable[[], list[Recorded]]:
    """Start a request for each row; the result waits for them, and is in the order of the rows."""
    results: dict[int, Recorded] = {}

    def request(number: int, row: NewRow) -> None:
        try:
            results[number] = recorder.record(row)
        except OutboxError as error:
            results[number] = error

    threads = [threading.Thread(target=request, args=item) for item in enumerate(rows)]
    for thread in threads:
        thread.start()

    def finished() -> list[Recorded]:
        for thread in threads:
            thread.join()
        return [results[number] for number in range(len(rows))]

    return finished


def stored(engine: Engine) -> dict[int, str]:
    """Id to key of what is in the database, as a new connection sees it."""
    other = create_outbox_engine(engine.url.render_as_string(hide_password=False))
    with other.connect() as connection:
        found: Any = connection.exec_driver_sql("SELECT id, key FROM outbox").all()
    other.dispose()
    return {row.id: row.key for row in found}


def behind_one_that_waits(engine: Engine, rows: Sequence[NewRow]) -> list[Recorded]:
    """Outcomes of rows that queue up while the writer waits with one other row: they form one batch."""
    store = TellingStore(engine)
    recorder = GroupCommitter(store)
    with writers_held(engine):
        first = recording(recorder, [new_row()])
        wait_until(lambda: store.batches, "the writer has taken the first row")
        rest = recording(recorder, rows)
        wait_until(lambda: recorder._queue.qsize() == len(rows), "the others wait", seconds=4)
    assert isinstance(first()[0], Accepted)
    outcomes = rest()
    store.wait_rung()
    assert store.batches[:2] == [1, len(rows)]
    return outcomes


def test_an_idle_recorder_commits_at_once(engine: Engine, commits: Callable[[], int]) -> None:
    """One request alone waits for nobody."""
    store = TellingStore(engine)
    recorder = GroupCommitter(store)
    assert [type(recorder.record(new_row())) for _ in range(3)] == [Accepted] * 3
    store.wait_rung()
    assert commits() == 3


def test_requests_that_come_together_share_one_transaction(engine: Engine, commits: Callable[[], int]) -> None:
    """Twenty wait while one is written: two transactions in all, twenty-one ids."""
    rows = [new_row() for _ in range(20)]
    outcomes = behind_one_that_waits(engine, rows)
    assert commits() == 2
    assert [stored(engine)[outcome.outbox_id] for outcome in outcomes if isinstance(outcome, Accepted)] == [
        row.key for row in rows
    ]


def test_where_requests_come_together_the_next_batch_is_given_a_moment(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a batch of several, what comes in that moment goes with the next; a lone request waits for none."""
    store = TellingStore(engine)
    recorder = GroupCommitter(store)
    late: list[Callable[[], list[Recorded]]] = []

    def moment(_seconds: float) -> None:
        late.append(recording(recorder, [new_row()]))
        wait_until(lambda: recorder._queue.qsize() == 1, "one more waits")

    monkeypatch.setattr("app.group_commit.sleep", moment)
    with writers_held(engine):
        first = recording(recorder, [new_row()])
        wait_until(lambda: store.batches, "the writer has taken the first row")
        company = recording(recorder, [new_row(), new_row()])
        wait_until(lambda: recorder._queue.qsize() == 2, "two wait", seconds=4)
    first(), company()
    assert store.batches == [1, 2]
    assert not late
    recorder.record(new_row())
    assert isinstance(late[0]()[0], Accepted)
    store.wait_rung()
    assert store.batches == [1, 2, 2]


def test_each_request_keeps_its_own_outcome(engine: Engine) -> None:
    """New, repeated, key reused: told apart within one transaction."""
    row = new_row()
    reused = new_row(key=row.key, payload=b"another")
    one, two, other, last = behind_one_that_waits(engine, [row, row, reused, new_row()])
    assert isinstance(one, Accepted)
    assert isinstance(two, Accepted)
    assert one.outbox_id == two.outbox_id
    assert sorted([one.duplicate, two.duplicate]) == [False, True]
    assert isinstance(other, KeyReused)
    assert isinstance(last, Accepted)


def test_one_bad_row_fails_alone(engine: Engine) -> None:
    """A row that the database refuses does not take its neighbours with it."""
    rows = [new_row() for _ in range(10)]
    rows[4] = new_row(timestamp_ms=-1)
    outcomes = behind_one_that_waits(engine, rows)
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 4 + [RowRefused] + [Accepted] * 5
    assert rows[4].key not in stored(engine).values()
    assert {row.key for row in rows} - {rows[4].key} <= set(stored(engine).values())


def test_a_full_database_fails_exactly_those_not_committed(new_sqlite: NewDatabase) -> None:
    """Whoever was told "accepted" is stored, whoever was told otherwise is not."""
    engine = create_outbox_engine(new_sqlite())

    @event.listens_for(engine, "connect")
    def _small(connection: Any, _record: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 200}").close()

    rows = [new_row(payload=BIG) for _ in range(80)]
    recorder = GroupCommitter(Store(engine))
    outcomes = [outcome for start in range(0, 80, 8) for outcome in recording(recorder, rows[start : start + 8])()]
    told = {row.key for row, outcome in zip(rows, outcomes, strict=True) if isinstance(outcome, Accepted)}
    assert told == set(stored(engine).values())
    assert 0 < len(told) < 80
    engine.dispose()


def test_the_recorder_goes_on_after_a_failure(new_sqlite: NewDatabase) -> None:
    """A database that is gone fails the requests meanwhile; the next one after it is back succeeds."""
    engine = create_outbox_engine(new_sqlite())
    recorder = GroupCommitter(Store(engine))
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE outbox_identity RENAME TO gone")
    with pytest.raises(OutboxError):
        recorder.record(new_row())
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO outbox_identity")
    assert isinstance(recorder.record(new_row()), Accepted)
    engine.dispose()


def test_where_a_commit_hangs_only_some_wait_for_it(engine: Engine) -> None:
    """As many as may wait do; one more waits until it is clear that the commit hangs, and all others not at all."""
    store = TellingStore(engine)
    recorder = GroupCommitter(store, most_waiting=3)
    with writers_held(engine):
        first = recording(recorder, [new_row()])
        wait_until(lambda: store.batches, "the writer has taken the first row")
        others = recording(recorder, [new_row(), new_row()])
        wait_until(lambda: recorder._queue.qsize() == 2, "two more wait")
        began = monotonic()
        with pytest.raises(DatabaseUnavailableError):
            recorder.record(new_row())
        assert monotonic() - began < 4
        began = monotonic()
        for _ in range(10):
            with pytest.raises(DatabaseUnavailableError):
                recorder.record(new_row())
        assert monotonic() - began < 1
    assert [type(outcome) for outcome in (*first(), *others())] == [Accepted] * 3
    assert isinstance(recorder.record(new_row()), Accepted)
    store.wait_rung()


def test_a_request_is_answered_in_time_after_its_arrival(engine: Engine) -> None:
    """However long it waited before: one that came ten seconds ago is refused, and not stored."""
    store = TellingStore(engine)
    recorder = GroupCommitter(store)
    row = new_row()
    with pytest.raises(DatabaseUnavailableError):
        recorder.record(row, arrived=monotonic() - PATIENCE_SECONDS)
    assert row.key not in stored(engine).values()
    with writers_held(engine):
        waiting = recording(recorder, [new_row()])
        began = monotonic()
        with pytest.raises(DatabaseUnavailableError):
            recorder.record(new_row(), arrived=monotonic() - PATIENCE_SECONDS + 0.5)
        assert monotonic() - began < 4
    assert isinstance(waiting()[0], Accepted)
    store.wait_rung()
