"""The operators' verbs on both databases: what they find, what they change, and what goes on record."""

import json
from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, text

from outbox.leases import Leases
from outbox.operations import Operations
from outbox.rows import Accepted, NewRow, Order, Planned, Ref, RowFilter
from outbox.store import Store
from tests.support import new_row, new_rows

ORDER = Order("ann", "topic limit raised", RowFilter(interaction_id="i-1", state="parked"))


@pytest.fixture
def operations(engine: Engine) -> Operations:
    """The verbs on a fresh database."""
    return Operations(engine)


def record(store: Store, rows: list[NewRow]) -> list[int]:
    """Commit rows; their ids."""
    return [outcome.outbox_id for outcome in store.record(rows) if isinstance(outcome, Accepted)]


def park(store: Store, engine: Engine, errors: dict[int, str]) -> None:
    """Park pending rows, as the shard's owner does."""
    leases = Leases(engine, "relay-1", 10)
    lease = leases.take(0)
    assert lease is not None
    rows = {row.id: row.ref for row in store.pending(lease, 10_000, waiting=False)}
    store.park(lease, {rows[row_id]: error for row_id, error in errors.items()})
    leases.release(lease)


def mark_sent(store: Store, sequence: int, rows: Sequence[Planned], *, inference: bool = False) -> None:
    """Mark rows sent, as the shard's owner does."""
    store.mark_sent(0, sequence, [Ref(row.id, row.tag) for row in rows], inference=inference)


def states(engine: Engine) -> dict[int, str]:
    """State of each row."""
    with engine.connect() as connection:
        return {row.id: row.state for row in connection.execute(text("SELECT id, state FROM outbox"))}


def found(operations: Operations, **conditions: object) -> list[int]:
    """Ids that a filter finds."""
    return [row.id for row in operations.find(RowFilter(**conditions))]  # type: ignore[arg-type]


def planned(operations: Operations, **conditions: object) -> list[Planned]:
    """Rows that a filter finds, as they are now."""
    return [row.planned for row in operations.find(RowFilter(**conditions))]  # type: ignore[arg-type]


def test_each_filter_finds_its_rows(operations: Operations, store: Store, engine: Engine) -> None:
    """Alone and together, in id order, over more than a page."""
    ids = record(store, [*new_rows(1500), new_row("other", channel="chat")])
    park(store, engine, {ids[3]: "too large: 1001 bytes", ids[13]: "Not encodable"})
    assert found(operations) == ids
    assert found(operations, ids=(ids[5], ids[2])) == [ids[2], ids[5]]
    assert found(operations, interaction_id="i-3") == ids[3:1500:10]
    assert found(operations, channel="chat") == [ids[-1]]
    assert found(operations, state="parked") == [ids[3], ids[13]]
    assert found(operations, state="parked", error="NOT ENC") == [ids[13]]
    assert found(operations, state="sent") == []
    (first,) = operations.find(RowFilter(ids=(ids[0],)))
    assert found(operations, until_ms=first.received_at_ms) == []
    assert found(operations, since_ms=first.received_at_ms) == ids


def test_parked_rows_are_grouped_by_what_their_errors_share(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """Numbers do not tell errors apart; the largest group is first."""
    ids = record(store, new_rows(4))
    park(store, engine, {ids[0]: "other", ids[1]: "1001 bytes", ids[2]: "2002 bytes"})
    assert [(group.error, group.rows) for group in operations.parked_by_error(RowFilter())] == [
        ("# bytes", 2),
        ("other", 1),
    ]


def test_a_retried_row_goes_before_those_behind_it(operations: Operations, store: Store, engine: Engine) -> None:
    """It is pending again, and the next select has it and what waited, in order."""
    ids = record(store, new_rows(3, interactions=1))
    park(store, engine, {ids[0]: "too large"})
    assert operations.count_behind(RowFilter(ids=(ids[0],))) == 2
    assert operations.retry(planned(operations, state="parked"), ORDER) == ids[:1]
    lease = Leases(engine, "relay-2", 10).take(0)
    assert lease is not None
    assert [row.id for row in store.pending(lease, 10)] == ids


def test_behind_a_discarded_row_nothing_waits(operations: Operations, store: Store, engine: Engine) -> None:
    """It is kept with its error, and the rows behind it are selected."""
    ids = record(store, new_rows(3, interactions=1))
    park(store, engine, {ids[0]: "too large"})
    assert operations.discard(planned(operations, state="parked"), ORDER) == ids[:1]
    lease = Leases(engine, "relay-2", 10).take(0)
    assert lease is not None
    assert [row.id for row in store.pending(lease, 10)] == ids[1:]
    (row,) = operations.find(RowFilter(state="discarded"))
    assert (row.id, row.error) == (ids[0], "too large")


def test_what_changed_since_the_plan_is_left_alone(operations: Operations, store: Store, engine: Engine) -> None:
    """A row that is not parked any more, or another row with its id, is neither changed nor put on record."""
    ids = record(store, new_rows(3))
    park(store, engine, dict.fromkeys(ids, "too large"))
    rows = planned(operations, state="parked")
    assert operations.retry(rows[:1], ORDER) == ids[:1]
    other = rows[1]._replace(tag=rows[1].tag ^ 1)
    assert operations.discard([rows[0], other, rows[2]], ORDER) == ids[2:]
    assert states(engine) == {ids[0]: "pending", ids[1]: "parked", ids[2]: "discarded"}
    assert [(entry.verb, json.loads(entry.row_ids)) for entry in operations.audit()] == [
        ("retry", ids[:1]),
        ("discard", ids[2:]),
    ]


def test_a_change_that_does_nothing_leaves_no_entry(operations: Operations, store: Store, engine: Engine) -> None:
    """Only effects are on record."""
    record(store, new_rows(1))
    pending = planned(operations)
    assert operations.retry(pending, ORDER) == []
    assert operations.discard(pending, ORDER) == []
    assert list(operations.audit()) == []
    assert set(states(engine).values()) == {"pending"}


def test_the_record_names_who_and_why_and_no_person(operations: Operations, store: Store, engine: Engine) -> None:
    """The interaction of the filter stands there as a keyed hash."""
    ids = record(store, new_rows(1))
    park(store, engine, {ids[0]: "too large"})
    operations.retry(planned(operations, state="parked"), ORDER)
    (entry,) = operations.audit()
    assert (entry.actor, entry.verb, entry.reason) == ("ann", "retry", "topic limit raised")
    given = json.loads(entry.filter)
    assert given["state"] == "parked"
    assert given["interaction_id"].startswith("hmac-sha256:")
    assert "i-1" not in entry.filter


def test_a_replay_is_a_new_row_in_the_old_order(operations: Operations, store: Store, engine: Engine) -> None:
    """Same content, a tag and an id of its own, marked; once by a plan; parked and pending rows are none of it."""
    ids = record(store, new_rows(6, interactions=2))
    park(store, engine, dict.fromkeys(ids[4:], "too large"))
    rows = list(operations.find(RowFilter()))
    wanted = [row.planned for row in rows]
    operations.discard(wanted[4:5], ORDER)
    store.mark_sent(0, 1, [row.ref for row in rows[:3]], inference=False)
    assert operations.replay("plan", wanted, ORDER) == [*ids[:3], ids[4]]
    assert operations.replay("plan", wanted, ORDER) == []
    assert operations.replay("other", wanted[:1], ORDER) == ids[:1]
    new = [row for row in operations.find(RowFilter()) if row.replay_of]
    assert [row.replay_of for row in new] == [*ids[:3], ids[4], ids[0]]
    old = {row.id: row for row in rows}
    for row in new:
        assert (row.state, row.interaction_id) == ("pending", old[row.replay_of or 0].interaction_id)
        assert row.tag != old[row.replay_of or 0].tag
    with engine.connect() as connection:
        pairs = connection.execute(
            text(
                "SELECT o.payload = r.payload AND o.shard = r.shard AND o.timestamp_ms = r.timestamp_ms "
                "FROM outbox AS r JOIN outbox AS o ON o.id = r.replay_of"
            )
        ).scalars()
        assert [bool(same) for same in pairs] == [True] * 5
    assert [entry.verb for entry in operations.audit()] == ["discard", "replay plan", "replay other"]


def test_a_plan_given_again_does_not_replay_itself(operations: Operations, store: Store) -> None:
    """Its own rows, sent by now, match the operator's filter, too: they are left alone, and no chain grows."""
    record(store, new_rows(3))
    rows = planned(operations)
    mark_sent(store, 1, rows)
    operations.replay("plan", rows[:2], ORDER)
    made = planned(operations, state="pending")
    mark_sent(store, 2, made)
    assert [row.id for row in operations.replayable(RowFilter(), "plan")] == [rows[2].id]
    assert operations.replay("plan", planned(operations), ORDER) == [rows[2].id]
    assert operations.replay("other", made, ORDER) == [row.id for row in made]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE outbox_audit SET actor = 'bob' WHERE verb = 'discard'",
        "UPDATE outbox_audit SET row_ids = '[]' WHERE verb = 'retry'",
        "DELETE FROM outbox_audit WHERE verb = 'retry'",
    ],
)
def test_a_changed_record_is_noticed(operations: Operations, store: Store, engine: Engine, tampering: str) -> None:
    """The chain is whole until an entry is changed or one before another is removed."""
    ids = record(store, new_rows(2))
    park(store, engine, dict.fromkeys(ids, "too large"))
    rows = planned(operations, state="parked")
    operations.retry(rows[:1], ORDER)
    operations.discard(rows[1:], ORDER)
    assert operations.verify().broken is None
    with engine.begin() as connection:
        connection.execute(text(tampering))
    assert operations.verify().broken is not None
