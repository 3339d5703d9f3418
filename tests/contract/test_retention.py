"""Pruning and erasing on both databases: what is removed, and what must stay."""

import json
import threading

import pytest
from sqlalchemy import Engine, text

from outbox.leases import Leases
from outbox.models import Accepted
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.prune import old_rows, prune_rows
from outbox.operators.rows import PARKED_CALLS_GIVEN_UP, RowFilter
from outbox.progress import ProgressVerdict
from outbox.sql import prune as sql
from outbox.store import Store
from testkit.outbox import call_states, found, mark_sent, park, park_calls, planned, record, record_ref, states
from testkit.rows import new_row, new_rows

HOUR_MS = 3_600_000
CONTEXT = AuditContext("ann", "request 17", RowFilter(email="someone@example.com"))


@pytest.fixture
def operations(engine: Engine) -> Operations:
    """Return the operations of a fresh database."""
    return Operations(engine)


def age(engine: Engine, hours: int = 2) -> None:
    """Make all rows older."""
    with engine.begin() as connection:
        columns = {"outbox": "received_at", "outbox_sent": "sent_at", "outbox_parked": "changed_at"}
        for table, column in columns.items():
            connection.execute(text(f"UPDATE {table} SET {column} = {column} - {hours * HOUR_MS}"))


def prune(engine: Engine) -> int:
    """Prune rows that are older than an hour."""
    return sum(prune_rows(engine, rows) or 0 for rows in old_rows(engine, HOUR_MS))


def test_only_old_rows_whose_work_is_done_are_pruned(operations: Operations, store: Store, engine: Engine) -> None:
    """Pending and parked rows stay, and sent rows whose call is due or parked, and recent rows."""
    ids = record(store, new_rows(7))
    park(store, engine, dict.fromkeys(ids[4:6], "too large"))
    operations.discard(planned(operations, ids=(ids[5],)), CONTEXT)
    rows = planned(operations)
    mark_sent(store, 1, rows[:3], inference=True)
    mark_sent(store, 2, rows[3:4])
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE outbox_inference_call SET state = 'done' WHERE row_id = {ids[0]}"))
    park_calls(engine, ids[1:2], 1)
    assert prune(engine) == 0
    age(engine)
    assert prune(engine) == 3
    assert states(engine) == {
        ids[1]: "sent", ids[2]: "sent", ids[4]: "parked", ids[6]: "pending",
    }  # fmt: skip
    assert call_states(engine) == {ids[1]: "parked", ids[2]: "due"}
    assert operations.prune(planned(operations), CONTEXT) == []
    assert operations.prune(planned(operations), CONTEXT, PARKED_CALLS_GIVEN_UP) == [ids[1]]


def test_retention_counts_from_the_last_change(operations: Operations, store: Store, engine: Engine) -> None:
    """So an accidental discard can be undone for as long."""
    ids = record(store, new_rows(3))
    park(store, engine, {ids[1]: "too large"})
    age(engine)
    operations.discard(planned(operations, state="parked"), CONTEXT)
    mark_sent(store, 1, planned(operations, ids=(ids[0],)))
    assert prune(engine) == 0
    assert len(found(operations)) == 3


def test_a_large_history_is_pruned_in_pages(operations: Operations, store: Store, engine: Engine) -> None:
    """A row that stays does not stop those after it; a page has at most 500 rows."""
    ids = record(store, new_rows(1200))
    rows = planned(operations)
    mark_sent(store, 1, [row for row in rows if row.id not in (ids[0], ids[700])])
    age(engine)
    assert max(len(page) for page in old_rows(engine, HOUR_MS)) <= 500
    assert prune(engine) == 1198
    assert found(operations) == [ids[0], ids[700]]


def test_pages_without_prunable_rows_are_yielded(operations: Operations, store: Store, engine: Engine) -> None:
    """So a walk over rows whose calls are still due can pause, too."""
    record(store, new_rows(1200))
    mark_sent(store, 1, planned(operations), inference=True)
    age(engine)
    assert list(old_rows(engine, HOUR_MS)) == [[], [], []]


def test_a_progress_record_of_pruned_rows_is_acknowledged(operations: Operations, store: Store, engine: Engine) -> None:
    """Nothing is marked, and new rows are accepted."""
    record(store, new_rows(2))
    rows = planned(operations)
    mark_sent(store, 1, rows)
    age(engine)
    assert prune(engine) == 2
    lease = Leases(engine, "relay-2", 10).take(0)
    assert lease is not None
    refs = [row.ref for row in store.pending(lease, 10)]
    done = store.acknowledge_record(lease, record_ref(1), refs, inference=True)
    assert (done.verdict, done.marked) == (ProgressVerdict.IN_ORDER, 0)
    (outcome,) = store.record([new_row()])
    assert isinstance(outcome, Accepted)
    assert outcome.outbox_id > rows[-1].id


def test_a_call_that_becomes_due_during_pruning_keeps_its_row(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """Whichever of the two comes second sees the first; no call lacks its row."""
    record(store, new_rows(200))
    rows = planned(operations)
    mark_sent(store, 1, rows, inference=True)
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox_inference_call SET state = 'done'"))
    age(engine)
    (page,) = old_rows(engine, HOUR_MS)
    threads = [threading.Thread(target=prune_rows, args=(engine, page))]
    threads += [
        threading.Thread(target=operations.call_again, args=("plan", rows[start : start + 20], CONTEXT))
        for start in range(0, 200, 40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(call_states(engine)) == set(found(operations)) == operations.called_again("plan")


def test_one_process_prunes_at_a_time(operations: Operations, store: Store, engine: Engine) -> None:
    """On PostgreSQL a second one does nothing; on SQLite writers queue anyway."""
    record(store, new_rows(3))
    mark_sent(store, 1, planned(operations))
    age(engine)
    (page,) = old_rows(engine, HOUR_MS)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(sql.TRY_LOCK.on(connection))
            assert prune_rows(engine, page) is None
    assert prune_rows(engine, page) == 3
    assert prune_rows(engine, page) == 0


def test_an_operators_prune_waits_for_the_relays(operations: Operations, store: Store, engine: Engine) -> None:
    """Its rows are pruned afterwards, not reported as changed."""
    ids = record(store, new_rows(3))
    mark_sent(store, 1, planned(operations))
    rows, gone = planned(operations), list[int]()
    with engine.begin() as connection:
        connection.execute(sql.TRY_LOCK.on(connection))
        waiting = threading.Thread(target=lambda: gone.extend(operations.prune(rows, CONTEXT)))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join()
    assert gone == ids


def test_personal_data_is_erased_from_rows_in_every_state(operations: Operations, store: Store, engine: Engine) -> None:
    """Rows are found by the customer's address or one in the body, in any case; everything else in a row stays."""
    body = b'{"id": "i-5", "note": "reach me at someone@example.com"}'
    ids = record(
        store,
        [
            *(new_row(f"i-{number}", customer_email="Someone@Example.com") for number in range(4)),
            new_row("i-4", customer_email="other@example.com"),
            new_row("i-5", customer_email=None, payload=body),
        ],
    )
    park(store, engine, dict.fromkeys(ids[1:3], "too large"))
    operations.discard(planned(operations, ids=(ids[2],)), CONTEXT)
    mark_sent(store, 1, planned(operations, ids=(ids[3],)))
    before = states(engine)
    rows = [row.planned for row in operations.erasable(RowFilter(email="someone@example.com"))]
    assert [row.id for row in rows] == [*ids[:4], ids[5]]
    assert operations.erase(rows, CONTEXT) == [*ids[:4], ids[5]]
    assert states(engine) == before
    with engine.connect() as connection:
        left = connection.execute(
            text("SELECT id, customer_email, payload FROM outbox WHERE length(payload) > 0")
        ).all()
        assert [(row.id, row.customer_email) for row in left] == [(ids[4], "other@example.com")]
        assert (
            connection.execute(text("SELECT count(*) FROM outbox WHERE customer_email IS NOT NULL")).scalar_one() == 1
        )
        assert (
            connection.execute(text("SELECT count(*) FROM outbox WHERE payload_digest IS NOT NULL")).scalar_one() == 1
        )
    assert not list(operations.erasable(RowFilter(email="someone@example.com")))
    lease = Leases(engine, "relay-2", 10).take(0)
    assert lease is not None
    assert [row.customer_email for row in store.pending(lease, 10)] == [None, "other@example.com", None]
    assert all("someone" not in entry.filter.lower() for entry in operations.audit())


@pytest.mark.parametrize(
    ("email", "body"),
    [
        ("someone@example.com", '{"note": "SomeOne@Example.COM"}'),
        ("SOMEONE@example.com", '{"note": "<someone@example.com>"}'),
        pytest.param("someone@example.com", r'{"note": "someone\u0040example.com"}', id="escaped"),
        ("someone@example.com", r'{"note": "\u0053\u006fmeone\u0040example\u002ecom"}'),
        ("some/one@example.com", r'{"note": "some\/one@example.com"}'),
        ("someone@example.com", r'{"deep": [{"SOMEONE\u0040example.com": 1}]}'),
        ("someone@example.com", '{"note": "日本 someone@EXAMPLE.com"}'),
        ("rené.weiß@example.com", '{"note": "RENÉ.WEISS@example.com"}'),
        ("rené@example.com", r'{"note": "ren\u00c9@example.com"}'),
        ("rené@example.com", r'{"note": "rene\u0301@example.com"}'),
        ("kim@example.com", '{"note": "\N{KELVIN SIGN}im@example.com"}'),
        ("someone@example.com", '{"note": "someone\N{FULLWIDTH COMMERCIAL AT}example.com"}'),
        ('"some\\one"@example.com', json.dumps({"note": '"some\\one"@example.com'})),
        ("weiß@example.com", '{"note": "WEISS@example.com"}'),
        ("someone\N{FULLWIDTH COMMERCIAL AT}example.com", '{"note": "someone@example.com"}'),
        ("i@example.com", '{"note": "I@example.com"}'),
        ("someone@example.com", '\ufeff{"note": "someone@example.com"}'),
    ],
)
def test_an_address_is_found_however_a_body_spells_it(
    email: str, body: str, operations: Operations, store: Store
) -> None:
    """In any case, with escapes, with letters beyond ASCII; a body with another address is left alone."""
    others = [r'{"note": "other\u0040example.com"}', '{"note": "日本 other@example.com"}', r'{"note": "\\u0040"}']
    ids = record(store, [new_row(payload=each.encode(), customer_email=None) for each in (body, *others)])
    assert [row.id for row in operations.erasable(RowFilter(email=email))] == ids[:1]


def test_a_customer_is_found_in_any_case(operations: Operations, store: Store) -> None:
    """Also beyond ASCII, where databases fold letters by their locale or not at all."""
    ids = record(
        store, [new_row(customer_email=each, payload=b"{}") for each in ("RENÉ@example.com", "rene@example.com")]
    )
    assert [row.id for row in operations.erasable(RowFilter(email="rené@EXAMPLE.com"))] == ids[:1]


def test_an_erased_interaction_keeps_its_id(operations: Operations, store: Store) -> None:
    """The order of rows and the key in Kafka depend on it."""
    ids = record(store, [new_row("i-1"), new_row("i-2"), new_row("i-1")])
    wanted = RowFilter(interaction_id="i-1")
    assert operations.erase([row.planned for row in operations.erasable(wanted)], CONTEXT) == [ids[0], ids[2]]
    assert not list(operations.erasable(wanted))
    assert found(operations, interaction_id="i-1") == [ids[0], ids[2]]


def test_a_delivery_repeated_after_the_erasure_is_still_a_duplicate(operations: Operations, store: Store) -> None:
    """Its body is no longer known, so the key alone counts, and nothing is stored again."""
    row = new_row()
    (first,) = store.record([row])
    operations.erase(planned(operations), CONTEXT)
    assert isinstance(first, Accepted)
    assert store.record([row]) == [Accepted(first.outbox_id, row.interaction_id, duplicate=True)]
    assert not list(operations.erasable(RowFilter(interaction_id=row.interaction_id)))


def test_a_replay_of_an_erased_row_has_no_personal_data(operations: Operations, store: Store) -> None:
    """It is sent again without the address."""
    record(store, [new_row()])
    mark_sent(store, 1, planned(operations))
    operations.erase(planned(operations), CONTEXT)
    operations.replay("plan", planned(operations), CONTEXT)
    assert not list(operations.erasable(RowFilter(interaction_id="i-1")))
    assert len(found(operations, state="pending")) == 1
