"""Moves of rows between the tables of states: which rows move, and that each id is always in exactly one table."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from outbox.db.engine import BEGIN, create_outbox_engine
from outbox.errors import LeaseLostError
from outbox.insert import as_json
from outbox.leases import Leases
from outbox.models import EnrichedFields, Lease, RowRef, new_nonce, shard_of
from outbox.operators import reconcile
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.reshard import reshard_rows
from outbox.operators.rows import PlannedRow, RowFilter
from outbox.sql.insert import INSERT_POSTGRESQL
from outbox.states import RowState
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.outbox import assert_placed, planned, record, record_ref, set_state, states
from testkit.rows import new_row, new_rows
from testkit.waiting import wait_until

CONTEXT = AuditContext("ann", "drill", RowFilter())
PENDING, SENT, PARKED, DISCARDED = RowState.PENDING, RowState.SENT, RowState.PARKED, RowState.DISCARDED
Rows = Sequence[PlannedRow]


class Outbox:
    """An outbox whose shards are leased, and its moves; each returns the number of rows that it moved."""

    def __init__(self, url: str, leases: Sequence[Lease] = ()) -> None:
        self.engine = create_outbox_engine(url)
        self.store, self.operations = Store(self.engine), Operations(self.engine)
        self.leases = leases or self._take_leases()

    def _take_leases(self) -> list[Lease]:
        leases = Leases(self.engine, "relay-1", 600)
        return [lease for shard in range(self.store.identity().shards) if (lease := leases.take(shard))]

    def in_state(self, state: RowState, count: int) -> list[PlannedRow]:
        """Record rows, and give them a state."""
        ids = record(self.store, new_rows(count))
        set_state(self.engine, f"id BETWEEN {ids[0]} AND {ids[-1]}", state)
        return planned(self.operations, ids=tuple(ids))

    def mark(self, rows: Rows, shard: int = 0) -> int:
        """Mark the rows of a transaction that was just committed."""
        return self.store.mark_sent(self.leases[shard], record_ref(1), refs(rows), inference=False).marked

    def acknowledge(self, rows: Rows, shard: int = 0) -> int:
        """Mark the rows of a progress record that was read back."""
        return self.store.acknowledge_record(self.leases[shard], record_ref(1), refs(rows), inference=False).marked

    def park(self, rows: Rows, shard: int = 0) -> int:
        """Park rows."""
        return self.store.park(self.leases[shard], dict.fromkeys(refs(rows), "refused"))

    def send_again(self, rows: Rows, shard: int = 0) -> int:
        """Send rows again that Kafka has lost."""
        return reconcile.send_again(self.engine, self.leases[shard], refs(rows), CONTEXT)

    def retry(self, rows: Rows) -> int:
        """Retry parked rows."""
        return len(self.operations.retry(rows, CONTEXT))

    def discard(self, rows: Rows) -> int:
        """Discard parked rows."""
        return len(self.operations.discard(rows, CONTEXT))

    def prune(self, rows: Rows) -> int:
        """Prune rows."""
        return len(self.operations.prune(rows, CONTEXT))

    def replay(self, rows: Rows) -> int:
        """Replay rows."""
        return len(self.operations.replay("plan", rows, CONTEXT))

    def erase(self, rows: Rows) -> int:
        """Erase rows."""
        return len(self.operations.erase(rows, CONTEXT))

    def enrich(self, rows: Rows) -> int:
        """Store what CXone returned for rows."""
        (lease,), ids = self.leases, {row.id for row in rows}
        found = [row for row in Store(self.engine).pending(lease, 100) if row.id in ids]
        return len(self.store.store_enrichment([(row, EnrichedFields("a@example.com", "7")) for row in found]))

    def accept(self, _rows: Rows = ()) -> int:
        """Accept new rows."""
        return len(record(self.store, new_rows(20)))

    def reshard(self, _rows: Rows = ()) -> int:
        """Change the number of shards."""
        return reshard_rows(self.engine, self.leases, {}, 5, CONTEXT)


def refs(rows: Rows) -> list[RowRef]:
    """Return the references of planned rows."""
    return [RowRef(row.id, row.nonce) for row in rows]


def entries(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Return the content of the tables of states."""
    with engine.connect() as connection:
        return {
            table: sorted(map(tuple, connection.execute(text(f"SELECT * FROM {table}"))))
            for table in ("outbox_pending", "outbox_sent", "outbox_parked")
        }


def shards_fit(engine: Engine, shards: int) -> bool:
    """Return whether each row that is not sent is in the shard of its interaction."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT interaction_id, shard FROM outbox_rows WHERE state <> 'sent'")).all()
    return all(shard == shard_of(interaction, shards) for interaction, shard in found)


@pytest.fixture
def outbox(new_database: NewDatabase) -> Iterator[Outbox]:
    """Return an outbox with one shard; the test runs once for each database."""
    outbox = Outbox(new_database())
    yield outbox
    outbox.engine.dispose()


MOVES: dict[str, dict[RowState, RowState | None]] = {
    "mark": {PENDING: SENT, PARKED: SENT, DISCARDED: SENT},
    "acknowledge": {PENDING: SENT, PARKED: SENT, DISCARDED: SENT},
    "park": {PENDING: PARKED},
    "retry": {PARKED: PENDING},
    "discard": {PARKED: DISCARDED},
    "send_again": {SENT: PENDING},
    "prune": {SENT: None, DISCARDED: None},
}
"""The states that each move starts from, and the state of the row afterwards; None: it is gone."""
NAMED_BY_TIME = ("retry", "discard", "prune")
"""Moves that name the time of a row's last change as well."""


@pytest.mark.parametrize("move", MOVES)
def test_a_move_takes_the_rows_that_it_names(outbox: Outbox, move: str) -> None:
    """No row in another state, with another nonce or, of a plan, changed at another time; repeated, it moves none."""
    changes = MOVES[move]
    named: list[PlannedRow] = []
    expected: dict[int, RowState | None] = {}
    for state in RowState:
        right, other_nonce, other_time, unnamed = outbox.in_state(state, 4)
        named += [right, other_nonce._replace(nonce=other_nonce.nonce ^ 1)]
        named += [other_time._replace(changed_at_ms=other_time.changed_at_ms + 1)]
        after = changes.get(state, state)
        expected |= {right.id: after, other_nonce.id: state, unnamed.id: state}
        expected[other_time.id] = state if move in NAMED_BY_TIME else after
    run: Callable[[Rows], int] = getattr(outbox, move)
    assert run(named) == len(changes) * (1 if move in NAMED_BY_TIME else 2)
    assert states(outbox.engine) == {row_id: state for row_id, state in expected.items() if state}
    assert_placed(outbox.engine)
    before = entries(outbox.engine)
    assert run(named) == 0
    assert entries(outbox.engine) == before


@pytest.mark.parametrize("block_behind_parked", [True, False])
@pytest.mark.parametrize(
    "changed", [{"owner": "other"}, {"epoch": 2}, {"acknowledged_sequence": 1}], ids=["owner", "epoch", "sequence"]
)
def test_rows_are_selected_only_under_the_lease(
    outbox: Outbox,
    changed: dict[str, Any],
    block_behind_parked: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """With the owner, the epoch and the acknowledged sequence of the shard, whatever the policy for parked rows."""
    outbox.in_state(PENDING, 2)
    (lease,) = outbox.leases
    assert len(outbox.store.pending(lease, 10, block_behind_parked=block_behind_parked)) == 2
    with pytest.raises(LeaseLostError):
        outbox.store.pending(lease._replace(**changed), 10, block_behind_parked=block_behind_parked)


@pytest.mark.parametrize(("move", "start"), [("mark", PENDING), ("acknowledge", PARKED)])
def test_a_marked_row_has_the_shard_and_sequence_that_sent_it(outbox: Outbox, move: str, start: RowState) -> None:
    """And nothing of its earlier states."""
    rows = outbox.in_state(start, 3)
    getattr(outbox, move)(rows)
    found = entries(outbox.engine)
    assert [entry[:3] for entry in found["outbox_sent"]] == [(row.id, 0, 1) for row in rows]
    assert found["outbox_pending"] == found["outbox_parked"] == []


def test_each_pending_row_is_in_the_shard_of_its_interaction(new_database: NewDatabase) -> None:
    """However it became pending: new, retried, sent again or as a replay; a duplicate adds none."""
    outbox = Outbox(new_database(3))
    engine, operations = outbox.engine, outbox.operations

    def rows_of(shard: int) -> list[PlannedRow]:
        return [row.planned for row in operations.find(RowFilter()) if row.shard == shard]

    new = new_rows(30)
    for _ in range(2):
        outbox.store.record(new)
    for move in ("park", "retry", "mark", "send_again", "mark", "replay"):
        run: Callable[..., int] = getattr(outbox, move)
        if move in {"retry", "replay"}:
            assert run(planned(operations)) == 30
        else:
            assert sum(run(rows_of(shard), shard) for shard in range(3)) == 30
        assert_placed(engine)
        assert shards_fit(engine, 3)
    assert len(states(engine)) == 60
    engine.dispose()


def test_a_record_marks_rows_in_whichever_shard_they_are(new_database: NewDatabase) -> None:
    """Rows may have moved to another shard since they were sent."""
    outbox = Outbox(new_database(3))
    outbox.in_state(PENDING, 20)
    rows = outbox.in_state(PARKED, 20)
    assert outbox.acknowledge(planned(outbox.operations)) == 40
    assert set(states(outbox.engine).values()) == {"sent"}
    assert len(rows) == 20
    assert_placed(outbox.engine)
    outbox.engine.dispose()


# Two transactions at once, on PostgreSQL -----------------------------------------------------------


class Race:
    """Runs two changes at once: the second one begins when the first has changed rows, but has not committed."""

    def __init__(self, url: str) -> None:
        self.first = Outbox(url)
        self.second = Outbox(url, self.first.leases)
        self.engine = create_outbox_engine(url)
        self.moved: list[int] = []

    def run(self, first: str, second: str, rows: Rows) -> None:
        """Run both; ``moved`` is what each returned. An error of either, such as a deadlock, is raised."""
        event.listen(self.first.engine, "commit", lambda _: self._start(second, rows), once=True)
        mine: int = getattr(self.first, first)(rows)
        self._thread.join()
        assert not self._failed, self._failed
        self.moved.insert(0, mine)

    def _start(self, second: str, rows: Rows) -> None:
        self._failed: list[Exception] = []

        def run() -> None:
            try:
                self.moved.append(getattr(self.second, second)(rows))
            except Exception as error:  # noqa: BLE001 - reported by run
                self._failed.append(error)

        self._thread = threading.Thread(target=run)
        self._thread.start()
        wait_until(lambda: not self._thread.is_alive() or self.waiting(), "the second one waits or is done")

    def waiting(self) -> int:
        """Return how many sessions wait for a lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with self.engine.connect() as connection:
            return int(connection.execute(text(query)).scalar_one())

    def prefer_indexes(self) -> None:
        """Let PostgreSQL come to rows in the order in which a statement names them, as it does in a large table."""
        for name in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
            with self.engine.begin() as connection:
                connection.execute(text(f'ALTER DATABASE "{self.engine.url.database}" SET {name} = off'))
        self.close()

    def close(self) -> None:
        """Close every connection."""
        for engine in (self.engine, self.first.engine, self.second.engine):
            engine.dispose()


@pytest.fixture
def race(new_postgresql: NewDatabase) -> Iterator[Race]:
    """Return a race in an outbox with one shard."""
    race = Race(new_postgresql())
    yield race
    race.close()


EXCLUSIVE = [
    (PENDING, "acknowledge", "park"),
    (PARKED, "retry", "discard"),
    (PARKED, "retry", "acknowledge"),
    (PARKED, "discard", "acknowledge"),
    (SENT, "prune", "send_again"),
    (DISCARDED, "prune", "acknowledge"),
    (SENT, "send_again", "send_again"),
    (SENT, "prune", "replay"),
]


@pytest.mark.parametrize(
    ("state", "first", "second"),
    [(state, *pair) for state, *two in EXCLUSIVE for pair in sorted(set(permutations(two)))],
)
def test_of_two_moves_at_once_the_first_wins(race: Race, state: RowState, first: str, second: str) -> None:
    """The second finds no row, or finds the rows where the first has put them."""
    rows = race.first.in_state(state, 3)
    race.run(first, second, rows)
    both = second in {"mark", "acknowledge"} and first in {"park", "retry", "discard"}  # evidence counts in every state
    assert race.moved == [3, 3 if both else 0]
    assert_placed(race.engine)


@pytest.mark.parametrize("first", ["erase", "enrich"])
def test_what_is_erased_stays_erased(race: Race, first: str) -> None:
    """Whether CXone's answer is stored before the erasure or after it."""
    record(race.first.store, [new_row(customer_email=None) for _ in range(3)])
    race.run(first, "enrich" if first == "erase" else "erase", planned(race.first.operations))
    assert race.moved == ([3, 0] if first == "erase" else [3, 3])
    with race.engine.connect() as connection:
        addresses = connection.execute(text("SELECT customer_email FROM outbox")).scalars().all()
    assert addresses == [None] * 3
    assert_placed(race.engine)


def test_pruning_skips_rows_that_are_moved_at_the_same_time(race: Race) -> None:
    """So the two cannot block each other, whatever the order in which they come to the rows."""
    first, second, third = race.first.in_state(SENT, 3)
    race.prefer_indexes()
    pruned: list[int] = []
    changes = [
        threading.Thread(target=race.first.send_again, args=([second, third, first],)),
        threading.Thread(target=lambda: pruned.append(race.second.prune([first, second]))),
    ]
    with race.engine.begin() as gate:
        gate.execute(text("SELECT 1 FROM outbox_sent WHERE id = :id FOR UPDATE"), {"id": third.id})
        changes[0].start()
        wait_until(race.waiting, "the third row is waited for")
        changes[1].start()
        wait_until(lambda: pruned or race.waiting() > 1, "rows are pruned, or waited for")
    for change in changes:
        change.join()
    assert pruned == [1]
    assert states(race.engine) == {second.id: PENDING, third.id: PENDING}
    assert_placed(race.engine)


@pytest.fixture
def race_of_three_shards(new_postgresql: NewDatabase) -> Iterator[Race]:
    """Return a race in an outbox with three shards."""
    race = Race(new_postgresql(3))
    yield race
    race.close()


@pytest.mark.parametrize(
    ("state", "first", "second"),
    [
        (PARKED, "reshard", "retry"),
        (PARKED, "retry", "reshard"),
        (SENT, "reshard", "replay"),
        (SENT, "replay", "reshard"),
        (PENDING, "reshard", "accept"),
        (DISCARDED, "reshard", "prune"),
        (DISCARDED, "prune", "reshard"),
    ],
)
def test_a_reshard_misses_no_row(race_of_three_shards: Race, state: RowState, first: str, second: str) -> None:
    """Rows that become pending at the same time come to their new shard, and a planned row that moved is left alone."""
    race = race_of_three_shards
    race.run(first, second, race.first.in_state(state, 20))
    assert_placed(race.engine)
    assert shards_fit(race.engine, 5)


def test_a_reshard_waits_for_rows_that_are_being_accepted(race_of_three_shards: Race) -> None:
    """They have the old shard, and move."""
    race = race_of_three_shards
    accepting = race.engine.raw_connection()
    driver: Any = accepting.driver_connection
    driver.execute(BEGIN["postgresql"])
    driver.execute(INSERT_POSTGRESQL, (as_json([(row, new_nonce()) for row in new_rows(20)]),))
    resharding = threading.Thread(target=race.first.reshard)
    resharding.start()
    wait_until(race.waiting, "the reshard waits")
    driver.commit()
    accepting.close()
    resharding.join()
    assert len(states(race.engine)) == 20
    assert_placed(race.engine)
    assert shards_fit(race.engine, 5)
