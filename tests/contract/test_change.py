"""Operations on both databases: what they find, what they change, and what they audit."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from outbox.db.engine import create_outbox_engine
from outbox.leases import Leases
from outbox.models import chosen_key
from outbox.operators import audit
from outbox.operators.audit import AuditContext, os_user
from outbox.operators.change import Operations
from outbox.operators.pause import pause_shards
from outbox.operators.plan import Plan
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.outbox import call_states, found, mark, mark_sent, park, park_calls, planned, record, states
from testkit.rows import new_row, new_rows

CONTEXT = AuditContext("ann", "topic limit raised", RowFilter(interaction_id="i-1", state="parked"))


@pytest.fixture
def operations(engine: Engine) -> Operations:
    """Return the operations of a fresh database."""
    return Operations(engine)


def test_each_filter_finds_its_rows(operations: Operations, store: Store, engine: Engine) -> None:
    """Conditions work alone and together, in id order, over more than one page."""
    ids = record(store, [*new_rows(1500), new_row("other", channel="chat")])
    park(store, engine, {ids[3]: "too large: 1001 bytes", ids[13]: "Not encodable"})
    assert found(operations) == ids
    assert found(operations, ids=(ids[5], ids[2])) == [ids[2], ids[5]]
    assert found(operations, interaction_id="i-3") == ids[3:1500:10]
    assert found(operations, channel="chat") == [ids[-1]]
    assert found(operations, state="parked") == [ids[3], ids[13]]
    assert found(operations, state="parked", error="NOT ENC") == [ids[13]]
    operations.discard(planned(operations, ids=(ids[3],)), CONTEXT)
    assert found(operations, error="o") == [ids[3], ids[13]]
    assert found(operations, error="too", channel="voice") == [ids[3]]
    assert found(operations, state="sent") == []
    (first,) = operations.find(RowFilter(ids=(ids[0],)))
    assert found(operations, until_ms=first.received_at_ms) == []
    assert found(operations, since_ms=first.received_at_ms) == ids


def test_parked_rows_are_grouped_by_error(operations: Operations, store: Store, engine: Engine) -> None:
    """Errors that differ only in numbers are one group; the largest group comes first."""
    ids = record(store, new_rows(4))
    park(store, engine, {ids[0]: "other", ids[1]: "1001 bytes", ids[2]: "2002 bytes"})
    assert [(group.error, group.rows) for group in operations.parked_by_error(RowFilter())] == [
        ("# bytes", 2),
        ("other", 1),
    ]


def test_a_retried_row_is_sent_before_the_rows_behind_it(operations: Operations, store: Store, engine: Engine) -> None:
    """It is pending again, and the next select returns it and the rows that waited, in order."""
    ids = record(store, new_rows(3, interactions=1))
    park(store, engine, {ids[0]: "too large"})
    assert operations.count_blocked(RowFilter(ids=(ids[0],))) == 2
    assert operations.retry(planned(operations, state="parked"), CONTEXT) == ids[:1]
    lease = Leases(engine, "relay-2", 10).take(0)
    assert lease is not None
    assert [row.id for row in store.pending(lease, 10)] == ids


def test_no_row_waits_behind_a_discarded_row(operations: Operations, store: Store, engine: Engine) -> None:
    """The discarded row keeps its error, and the rows behind it are selected."""
    ids = record(store, new_rows(3, interactions=1))
    park(store, engine, {ids[0]: "too large"})
    assert operations.discard(planned(operations, state="parked"), CONTEXT) == ids[:1]
    lease = Leases(engine, "relay-2", 10).take(0)
    assert lease is not None
    assert [row.id for row in store.pending(lease, 10)] == ids[1:]
    (row,) = operations.find(RowFilter(state="discarded"))
    assert (row.id, row.error) == (ids[0], "too large")


def test_a_row_that_changed_since_it_was_planned_is_left_alone(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """A row that is no longer parked, or another row with its id, is neither changed nor audited."""
    ids = record(store, new_rows(3))
    park(store, engine, dict.fromkeys(ids, "too large"))
    rows = planned(operations, state="parked")
    assert operations.retry(rows[:1], CONTEXT) == ids[:1]
    other = rows[1]._replace(nonce=rows[1].nonce ^ 1)
    assert operations.discard([rows[0], other, rows[2]], CONTEXT) == ids[2:]
    assert states(engine) == {ids[0]: "pending", ids[1]: "parked", ids[2]: "discarded"}
    assert [(entry.verb, json.loads(entry.row_ids)) for entry in operations.audit()] == [
        ("retry", ids[:1]),
        ("discard", ids[2:]),
    ]


def test_a_change_without_effect_is_not_audited(operations: Operations, store: Store, engine: Engine) -> None:
    """Only rows that were changed are in the audit log."""
    record(store, new_rows(1))
    pending = planned(operations)
    assert operations.retry(pending, CONTEXT) == []
    assert operations.discard(pending, CONTEXT) == []
    assert list(operations.audit()) == []
    assert set(states(engine).values()) == {"pending"}


def test_an_audit_entry_names_actor_and_reason_but_no_person(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """Without a key the value of a personal condition is not recorded, only that it was given."""
    ids = record(store, new_rows(1))
    park(store, engine, {ids[0]: "too large"})
    operations.retry(planned(operations, state="parked"), CONTEXT)
    (entry,) = operations.audit()
    assert entry.os_user == os_user()
    assert (entry.actor, entry.verb, entry.reason) == ("ann", "retry", "topic limit raised")
    given = json.loads(entry.filter)
    assert given["state"] == "parked"
    assert given["interaction_id"] == "not recorded"


def test_a_pseudonym_depends_on_a_key_outside_the_database(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """The same key gives the same pseudonym, another key another one; nothing in the database reproduces it."""
    ids = record(store, new_rows(3))
    park(store, engine, dict.fromkeys(ids, "too large"))
    for row, key in zip(planned(operations, state="parked"), (b"a" * 16, b"a" * 16, b"b" * 16), strict=True):
        operations.retry([row], replace(CONTEXT, pseudonym_key=key))
    first, same, other = (json.loads(entry.filter)["interaction_id"] for entry in operations.audit())
    assert first == same != other
    identity = store.identity().outbox_id
    assert first == audit.pseudonym(b"a" * 16, "i-1") != audit.pseudonym(identity.encode(), "i-1")
    assert operations.verify().broken is None


def test_a_senders_key_is_recorded_as_a_pseudonym(operations: Operations, store: Store, engine: Engine) -> None:
    """Neither the key's text nor its digest is recorded: a guess of the text could be tested against the digest."""
    ids = record(store, [new_row(key="order-4711"), new_row()])
    park(store, engine, dict.fromkeys(ids, "too large"))
    wanted = RowFilter(key=chosen_key("order-4711"))
    (first,) = planned(operations, key=chosen_key("order-4711"))
    assert first.id == ids[0]
    operations.retry([first], replace(CONTEXT, rows=wanted))
    (second,) = planned(operations, state="parked")
    operations.retry([second], replace(CONTEXT, rows=wanted, pseudonym_key=b"a" * 16))
    without, pseudonym = (json.loads(entry.filter)["key"] for entry in operations.audit())
    assert without == "not recorded"
    assert pseudonym == audit.pseudonym(b"a" * 16, chosen_key("order-4711"))
    assert chosen_key("order-4711").hex() not in pseudonym
    assert operations.verify().broken is None


def test_a_removed_last_entry_is_detected_by_its_known_hash(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """The remaining chain is valid, but the last hash that was read before is missing."""
    head = audit.AuditHead(engine)
    assert head.read() == (audit.Head(0, ""), audit.Head(0, ""), False)
    ids = record(store, new_rows(2))
    park(store, engine, dict.fromkeys(ids, "too large"))
    for row in planned(operations, state="parked"):
        operations.retry([row], CONTEXT)
    last = list(operations.audit())[-1]
    assert head.read() == (audit.Head(0, ""), audit.Head(last.id, last.hash), False)
    assert head.read() == (audit.Head(last.id, last.hash), audit.Head(last.id, last.hash), False)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outbox_audit WHERE id = :id"), {"id": last.id})
    assert head.read().rewritten
    assert not head.read().rewritten


def test_changes_are_counted_by_verb(operations: Operations, store: Store, engine: Engine) -> None:
    """Entries and their rows, of all time; a shard's number or a plan's name makes no further verb."""
    totals = audit.AuditTotals(engine)
    assert {total.verb for total in totals.read()} == set(audit.VERBS)
    assert not any(total.entries or total.rows for total in totals.read())
    ids = record(store, new_rows(3))
    park(store, engine, dict.fromkeys(ids, "too large"))
    operations.retry(planned(operations, ids=(ids[0],)), CONTEXT)
    operations.discard(planned(operations, state="parked"), CONTEXT)
    totals.read()
    operations.replay("plan", planned(operations, ids=(ids[1],)), CONTEXT)
    operations.replay("other", planned(operations, ids=(ids[2],)), CONTEXT)
    wanted = [("discard", 1, 2), ("replay", 2, 2), ("retry", 1, 1)]
    for each in (totals, audit.AuditTotals(engine)):
        assert sorted(total for total in each.read() if total.entries) == wanted
    assert {entry.verb.split()[0] for entry in operations.audit()} <= set(audit.VERBS)


def test_a_long_audit_trail_is_counted_page_by_page(operations: Operations, store: Store, engine: Engine) -> None:
    """All of its entries and rows are counted, whatever their number."""
    park(store, engine, dict.fromkeys(record(store, new_rows(2)), "too large"))
    operations.retry(planned(operations, state="parked"), CONTEXT)
    columns = "at, actor, verb, filter, reason, row_ids, hash, os_user"
    for _ in range(11):
        with engine.begin() as connection:
            connection.execute(text(f"INSERT INTO outbox_audit ({columns}) SELECT {columns} FROM outbox_audit"))
    assert [total for total in audit.AuditTotals(engine).read() if total.entries] == [("retry", 2048, 4096)]


def test_a_replay_creates_new_rows_in_the_old_order(operations: Operations, store: Store, engine: Engine) -> None:
    """A copy has the same content, its own id and nonce; a plan replays a row once, and no parked or pending row."""
    ids = record(store, new_rows(6, interactions=2))
    park(store, engine, dict.fromkeys(ids[4:], "too large"))
    rows = list(operations.find(RowFilter()))
    wanted = [row.planned for row in rows]
    operations.discard(wanted[4:5], CONTEXT)
    mark(store, 1, [row.ref for row in rows[:3]])
    assert operations.replay("plan", wanted, CONTEXT) == [*ids[:3], ids[4]]
    assert operations.replay("plan", wanted, CONTEXT) == []
    assert operations.replay("other", wanted[:1], CONTEXT) == ids[:1]
    new = [row for row in operations.find(RowFilter()) if row.replay_of]
    assert [row.replay_of for row in new] == [*ids[:3], ids[4], ids[0]]
    old = {row.id: row for row in rows}
    for row in new:
        assert (row.state, row.interaction_id) == ("pending", old[row.replay_of or 0].interaction_id)
        assert row.nonce != old[row.replay_of or 0].nonce
    with engine.connect() as connection:
        pairs = connection.execute(
            text(
                "SELECT o.payload = r.payload AND o.interaction_hash = r.interaction_hash "
                "AND o.timestamp_ms = r.timestamp_ms "
                "FROM outbox AS r JOIN outbox AS o ON o.id = r.replay_of"
            )
        ).scalars()
        assert [bool(same) for same in pairs] == [True] * 5
    assert [entry.verb for entry in operations.audit()] == ["discard", "replay plan", "replay other"]


def test_a_plan_that_is_run_again_does_not_replay_its_own_rows(operations: Operations, store: Store) -> None:
    """The plan's own rows, once sent, match the filter too, and are left alone."""
    record(store, new_rows(3))
    rows = planned(operations)
    mark_sent(store, 1, rows)
    operations.replay("plan", rows[:2], CONTEXT)
    copies = planned(operations, state="pending")
    mark_sent(store, 2, copies)
    assert [row.id for row in operations.replayable(RowFilter(), "plan")] == [rows[2].id]
    assert operations.replay("plan", planned(operations), CONTEXT) == [rows[2].id]
    assert operations.replay("other", copies, CONTEXT) == [row.id for row in copies]


def test_the_entries_of_a_row_are_found(operations: Operations, store: Store, engine: Engine) -> None:
    """Those that name it, the oldest first, also after it was erased and pruned; others are not read."""
    ids = record(store, new_rows(4))
    park(store, engine, dict.fromkeys(ids[:3], "too large"))
    first, second, third = planned(operations, state="parked")
    operations.retry([first, second], CONTEXT)
    operations.discard([third], CONTEXT)
    park(store, engine, {first.id: "too large"})
    operations.discard(planned(operations, state="parked"), CONTEXT)
    operations.erase(planned(operations, ids=(first.id,)), CONTEXT)
    operations.prune(planned(operations, ids=(first.id,)), CONTEXT)
    pause_shards(engine, None, None, CONTEXT)
    verbs = {row_id: [entry.verb for entry in operations.audit(row_id)] for row_id in ids}
    assert list(verbs.values()) == [["retry", "discard", "erase", "prune"], ["retry"], ["discard"], []]
    assert operations.verify().broken is None


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE outbox_audit SET actor = 'bob' WHERE verb = 'discard'",
        "UPDATE outbox_audit SET row_ids = '[]' WHERE verb = 'retry'",
        "DELETE FROM outbox_audit WHERE verb = 'retry'",
    ],
)
def test_a_changed_audit_log_is_detected(operations: Operations, store: Store, engine: Engine, tampering: str) -> None:
    """The chain is valid until an entry is changed, or one before another is removed."""
    ids = record(store, new_rows(2))
    park(store, engine, dict.fromkeys(ids, "too large"))
    rows = planned(operations, state="parked")
    operations.retry(rows[:1], CONTEXT)
    operations.discard(rows[1:], CONTEXT)
    assert operations.verify().broken is None
    with engine.begin() as connection:
        connection.execute(text(tampering))
    assert operations.verify().broken is not None


def test_a_row_that_was_parked_again_since_it_was_planned_is_left_alone(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """After a retry that failed it is not the row that the operator was shown."""
    ids = record(store, new_rows(2))
    park(store, engine, dict.fromkeys(ids, "too large"))
    rows = planned(operations, state="parked")
    operations.retry(rows[:1], CONTEXT)
    park(store, engine, {ids[0]: "too large"})
    assert operations.discard(rows, CONTEXT) == ids[1:]
    assert states(engine) == {ids[0]: "parked", ids[1]: "discarded"}


def test_a_plan_excludes_rows_that_are_accepted_later(operations: Operations, store: Store) -> None:
    """A search ends with the rows that existed when it began, however many pages it reads."""
    record(store, new_rows(1500))
    rows = operations.find(RowFilter())
    first = next(rows)
    record(store, new_rows(10))
    plan = Plan([first, *rows])
    assert len(plan) == 1500
    assert [len(chunk) for chunk in plan.chunks(1000)] == [1000, 500]
    assert plan.states == {"pending": 1500}


def test_rows_are_found_by_time(operations: Operations, store: Store, engine: Engine) -> None:
    """Also where ids are missing, and where rows are slightly out of order."""
    ids = record(store, new_rows(300))
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET received_at = 1000000000 + id * 60000"))
        connection.execute(text(f"UPDATE outbox SET received_at = received_at - 60000 WHERE id = {ids[200]}"))
        for table in ("outbox", "outbox_pending"):
            connection.execute(text(f"DELETE FROM {table} WHERE id BETWEEN {ids[50]} AND {ids[149]}"))
        at = {row.id: row.received_at for row in connection.execute(text("SELECT id, received_at FROM outbox"))}
    for since, until in ((ids[10], ids[180]), (ids[199], ids[201]), (ids[0], ids[1]), (ids[299], ids[299])):
        expected = [row_id for row_id, moment in at.items() if at[since] <= moment < at[until]]
        assert found(operations, since_ms=at[since], until_ms=at[until]) == sorted(expected)
    assert found(operations, since_ms=at[ids[299]] + 1) == []
    assert found(operations, until_ms=at[ids[0]]) == []


def test_rows_of_a_state_are_found_in_id_order_across_shards(new_database: NewDatabase) -> None:
    """The scans of the shards are merged."""
    engine = create_outbox_engine(new_database(3))
    store, operations = Store(engine), Operations(engine)
    ids = record(store, new_rows(40, interactions=20))
    for shard in range(3):
        lease = Leases(engine, "relay-1", 10).take(shard)
        assert lease is not None
        store.park(lease, {row.ref: "too large" for row in store.pending(lease, 100)[::2]})
    parked, pending = found(operations, state="parked"), found(operations, state="pending")
    assert sorted(parked + pending) == ids
    assert (parked, pending) == (sorted(parked), sorted(pending))
    assert len({row.shard for row in operations.find(RowFilter(state="parked"))}) == 3
    engine.dispose()


def test_parked_calls_are_found_and_retried(operations: Operations, store: Store, engine: Engine) -> None:
    """Parked calls are found by their error and become due; a call that was parked again since is left alone."""
    ids = record(store, new_rows(3))
    mark_sent(store, 1, planned(operations), inference=True)
    park_calls(engine, ids[:2], 1000)
    assert [row.id for row in operations.parked_calls(RowFilter(error="http 422"))] == ids[:2]
    assert not list(operations.parked_calls(RowFilter(error="HTTP 500")))
    rows = [row.planned for row in operations.parked_calls(RowFilter())]
    park_calls(engine, ids[:1], 2000)
    assert operations.retry_calls(rows, CONTEXT) == ids[1:2]
    assert call_states(engine) == {ids[0]: "parked", ids[1]: "due", ids[2]: "due"}
    assert [entry.verb for entry in operations.audit(ids[1])] == ["inference retry"]


def test_a_plan_calls_inference_again_once(operations: Operations, store: Store, engine: Engine) -> None:
    """Calls of sent rows become due, also for a row without a call; no row is added.

    Once they are made, another run of the plan, made ready before, makes none of them due; another plan does.
    """
    ids = record(store, new_rows(3))
    rows = planned(operations)
    mark_sent(store, 1, rows[:1], inference=True)
    mark_sent(store, 2, rows[1:2])
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox_inference_call SET state = 'done', attempts = 3"))
    assert operations.call_again("plan", rows, CONTEXT) == ids[:2]
    assert operations.call_again("plan", rows, CONTEXT) == []
    assert call_states(engine) == dict.fromkeys(ids[:2], "due")
    assert operations.called_again("plan") == set(ids[:2])
    assert operations.called_again("other") == set()
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox_inference_call SET state = 'done'"))
    assert operations.call_again("plan", rows, CONTEXT) == []
    assert operations.call_again("other", rows, CONTEXT) == ids[:2]
    assert len(planned(operations)) == 3


def test_a_noted_hash_shows_that_the_newest_entries_were_removed(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """The remaining chain is valid, but lacks the hash that it once ended with."""
    ids = record(store, new_rows(2))
    park(store, engine, dict.fromkeys(ids, "too large"))
    for row in planned(operations, state="parked"):
        operations.retry([row], CONTEXT)
    head = operations.verify().last_hash
    assert operations.verify(head) == (2, head, None, True)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outbox_audit WHERE id = (SELECT max(id) FROM outbox_audit)"))
    report = operations.verify(head)
    assert (report.broken, report.holds) == (None, False)
