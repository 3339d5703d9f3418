"""The inference queue on both databases: who can claim which calls, in which order, and what a result changes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from outbox.db.engine import create_outbox_engine
from outbox.inference_queue import CLAIM_MS, InferenceQueue
from outbox.leases import Leases
from outbox.models import CallResult, InferenceCall
from outbox.sql import inference_queue as sql
from outbox.sql.inference_queue import BLOCKED_DELAY_MS
from outbox.sql.statement import bind_numbers, bind_texts
from outbox.states import CallState
from outbox.store import Store
from testkit.databases import NewDatabase
from testkit.outbox import mark
from testkit.rows import new_row


@pytest.fixture
def calls(engine: Engine) -> InferenceQueue:
    """Return the queue as one relay sees it."""
    return InferenceQueue(engine, "me")


@pytest.fixture
def other(engine: Engine) -> InferenceQueue:
    """Return the same queue as another relay sees it."""
    return InferenceQueue(engine, "other")


def make_due(engine: Engine, *interactions: str, batch: int = 100) -> list[int]:
    """Send rows of these interactions in batches; return their ids, which are also those of their calls."""
    store = Store(engine)
    store.record([new_row(name) for name in interactions])
    lease = Leases(engine, "shard's", 600).take(0)
    assert lease is not None
    ids = []
    while rows := store.pending(lease, batch):
        lease = lease._replace(
            acknowledged_sequence=mark(store, lease.acknowledged_sequence + 1, [r.ref for r in rows], inference=True)
        )
        ids += [row.id for row in rows]
    return ids


def claimed(batches: Sequence[Sequence[InferenceCall]]) -> list[list[int]]:
    """Return the ids of each batch."""
    return sorted([call.row_id for call in batch] for batch in batches)


def result(call: InferenceCall, state: CallState = CallState.DONE, wait_ms: int = 0) -> CallResult:
    """Return the result of a call."""
    error = None if state is CallState.DONE else "HTTP 500"
    return CallResult(call.row_id, state.value, call.attempts + 1, 200, error, 5, wait_ms, call.claimed_until_ms)


def due_in(engine: Engine, row_id: int) -> int:
    """Return roughly how many milliseconds remain until a call is due."""
    import time

    with engine.connect() as connection:
        due = connection.exec_driver_sql(f"SELECT due_at FROM outbox_inference_call WHERE row_id = {row_id}")
        return int(due.scalar_one() - time.time() * 1000)


def states(engine: Engine) -> dict[str, int]:
    """Count calls by state."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT state, count(*) FROM outbox_inference_call GROUP BY state")
        return {row[0]: row[1] for row in found}


def test_a_claim_takes_batches_of_interactions_exclusively(
    engine: Engine, calls: InferenceQueue, other: InferenceQueue
) -> None:
    """The next calls of an interaction go to one worker, in order; other interactions to other workers."""
    a1, b1, a2, a3 = make_due(engine, "a", "b", "a", "a", batch=2)
    assert claimed(calls.claim(1, 2)) == [[a1, a2]]
    assert claimed(other.claim(10)) == [[b1]]
    assert calls.claim(10) == []
    assert a3 > a2


def test_calls_are_added_only_for_the_marked_rows(engine: Engine, calls: InferenceQueue) -> None:
    """Not for rows whose ids lie between them: an old, retried row can be in one batch with the newest."""
    store = Store(engine)
    store.record([new_row(name) for name in ("old", "between", "new")])
    lease = Leases(engine, "shard's", 600).take(0)
    assert lease is not None
    old, between, new = store.pending(lease, 10)
    mark(store, lease.acknowledged_sequence + 1, [between.ref])
    mark(store, lease.acknowledged_sequence + 1, [old.ref, new.ref], inference=True)
    assert claimed(calls.claim(10)) == [[old.id], [new.id]]


def test_marking_rows_keeps_existing_calls(engine: Engine, calls: InferenceQueue) -> None:
    """No call is repeated when a transaction's rows are marked at different times, as by two relays."""
    store = Store(engine)
    store.record([new_row("a"), new_row("b")])
    lease = Leases(engine, "shard's", 600).take(0)
    assert lease is not None
    first, second = store.pending(lease, 10)
    mark(store, lease.acknowledged_sequence + 1, [first.ref], inference=True)
    ((call,),) = calls.claim(10)
    calls.record_results([result(call)])
    mark(store, lease.acknowledged_sequence + 1, [first.ref, second.ref], inference=True)
    assert states(engine) == {"done": 1, "due": 1}


def test_the_end_of_a_call_makes_the_next_one_due(engine: Engine, calls: InferenceQueue, other: InferenceQueue) -> None:
    """Whether it is done or parked; before, the next call of its interaction is not due."""
    for ended in (CallState.DONE, CallState.PARKED):
        first, second = make_due(engine, f"i-{ended}", f"i-{ended}")
        assert due_in(engine, second) > BLOCKED_DELAY_MS / 2
        ((call,),) = calls.claim(10, 1)
        assert call.row_id == first
        assert other.claim(10) == []
        calls.record_results([result(call, ended)])
        ((next_call,),) = other.claim(10)
        assert next_call.row_id == second
        other.record_results([result(next_call)])


def test_a_call_that_will_be_retried_blocks_the_calls_behind_it(engine: Engine, calls: InferenceQueue) -> None:
    """During the delay no call of its interaction is claimed; afterwards it comes first."""
    first, second = make_due(engine, "a", "a")
    ((one, two),) = calls.claim(1)
    given_back = replace(result(two, CallState.DUE, BLOCKED_DELAY_MS), attempts=0, tried=False)
    calls.record_results([result(one, CallState.DUE, 60_000), given_back])
    assert calls.claim(10) == []
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_inference_call SET due_at = 1")
    ((again, behind),) = calls.claim(10)
    assert (again.row_id, again.attempts, behind.row_id, behind.attempts) == (first, 1, second, 0)


def test_blocked_calls_are_deferred(engine: Engine, calls: InferenceQueue, other: InferenceQueue) -> None:
    """Calls of later batches are due at once, but blocked by a claimed one: they are read once, then deferred."""
    first, *behind = make_due(engine, *["a"] * 6, batch=1)
    assert claimed(calls.claim(1, 1)) == [[first]]
    assert other.claim(10) == []
    assert other.defer_blocked() == len(behind)
    assert not other.any_due()
    assert other.defer_blocked() == 0
    assert all(due_in(engine, row_id) > BLOCKED_DELAY_MS / 2 for row_id in behind)


def test_late_results_of_an_expired_claim_do_no_harm(
    engine: Engine, calls: InferenceQueue, other: InferenceQueue
) -> None:
    """A late failure changes nothing for the new owner; a late success counts."""
    (row_id,) = make_due(engine, "a")
    ((late,),) = calls.claim(1)
    assert 0 < due_in(engine, row_id) <= CLAIM_MS
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_inference_call SET due_at = 1")
    ((new,),) = other.claim(1)
    calls.record_results([result(late, CallState.DUE)])
    assert other.claim(1) == calls.claim(1) == []
    assert due_in(engine, row_id) > 0
    calls.record_results([result(late)])
    other.record_results([result(new, CallState.PARKED)])
    assert calls.oldest_age_ms() is None
    assert states(engine) == {"done": 1}


def test_a_second_claim_by_the_same_relay_is_another_claim(engine: Engine, calls: InferenceQueue) -> None:
    """A late failure of the first claim does not end the second."""
    make_due(engine, "a")
    ((first,),) = calls.claim(1)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_inference_call SET due_at = 1")
    ((second,),) = calls.claim(1)
    calls.record_results([replace(result(first, CallState.DUE), claimed_until_ms=second.claimed_until_ms - 1)])
    assert calls.claim(1) == []


def test_a_call_that_is_given_back_late_is_due_at_once(
    engine: Engine, calls: InferenceQueue, other: InferenceQueue
) -> None:
    """If another relay has made the first call of the batch meanwhile, no later end would wake the call."""
    first, second = make_due(engine, "a", "a")
    ((one, two),) = calls.claim(1)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_inference_call SET due_at = 1")
    late = replace(result(one, CallState.DUE), claimed_until_ms=1)
    behind = replace(result(two, CallState.DUE, BLOCKED_DELAY_MS), attempts=0, tried=False, claimed_until_ms=1)
    ((again,),) = other.claim(1)
    assert again.row_id == first
    other.record_results([result(again)])
    calls.record_results([late, behind])
    ((next_call,),) = other.claim(1)
    assert next_call.row_id == second


def test_the_end_of_a_call_keeps_the_rest_of_its_batch_claimed(
    engine: Engine, calls: InferenceQueue, other: InferenceQueue
) -> None:
    """Results are recorded while the batch continues: its next call does not become due for another worker."""
    make_due(engine, "a", "a")
    ((one, two),) = calls.claim(1)
    calls.record_results([result(one)])
    assert other.claim(10) == []
    calls.record_results([result(two)])
    assert states(engine) == {"done": 2}


def test_a_batch_ends_before_a_call_of_another_worker(
    engine: Engine, calls: InferenceQueue, other: InferenceQueue
) -> None:
    """The first call is due again before the rest of its batch is given back: calls after the batch have to wait."""
    first, *_ = make_due(engine, "a", "a", "a")
    ((one, _two),) = other.claim(1, 2)
    other.record_results([result(one, CallState.DUE)])
    assert claimed(calls.claim(10)) == [[first]]


def test_giving_back_late_keeps_the_claim_of_another_worker(
    engine: Engine, calls: InferenceQueue, other: InferenceQueue
) -> None:
    """A call that a stalled relay did not attempt stays with the worker that has claimed it since."""
    make_due(engine, "a")
    ((late,),) = calls.claim(1)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_inference_call SET due_at = 1")
    ((new,),) = other.claim(1)
    calls.record_results([replace(result(late, CallState.DUE), attempts=0, tried=False)])
    assert calls.claim(1) == []
    other.record_results([result(new, CallState.DUE, 60_000)])
    assert calls.claim(1) == []


def test_claims_of_dead_workers_are_released(engine: Engine, calls: InferenceQueue, other: InferenceQueue) -> None:
    """At once, and only theirs."""
    one, _two = make_due(engine, "a", "b")
    assert claimed(calls.claim(1)) == [[one]]
    other.claim(1)
    other.release_claims_of(lambda owner: owner == "me")
    assert claimed(other.claim(10)) == [[one]]


def test_the_oldest_due_call_is_the_one_whose_row_was_sent_first(engine: Engine, calls: InferenceQueue) -> None:
    """Also while it is claimed, delayed or blocked, and whatever its id; a call that has ended does not count."""
    assert calls.oldest_age_ms() is None
    first, second, third = make_due(engine, "a", "a", "b")
    with engine.begin() as connection:
        for row_id, minutes in ((first, 30), (second, 60), (third, 10)):
            connection.exec_driver_sql(
                f"UPDATE outbox_sent SET sent_at = sent_at - {minutes * 60_000} WHERE id = {row_id}"
            )
    assert round((calls.oldest_age_ms() or 0) / 60_000) == 60
    (one, two), (three,) = sorted(calls.claim(2), key=len, reverse=True)
    assert round((calls.oldest_age_ms() or 0) / 60_000) == 60
    calls.record_results([result(one, CallState.DUE, 300_000), result(two, CallState.PARKED), result(three)])
    assert round((calls.oldest_age_ms() or 0) / 60_000) == 30
    calls.record_results([result(one)])
    assert calls.oldest_age_ms() is None


def test_claims_use_the_indexes_of_due_calls(engine: Engine) -> None:
    """No statement of a claim scans the table."""
    make_due(engine, *(f"i-{number % 50}" for number in range(500)))
    with engine.begin() as connection:
        postgresql = connection.dialect.name == "postgresql"
        connection.exec_driver_sql("ANALYZE outbox_inference_call")
        if postgresql:  # scanning a small table is right: show that it is not necessary
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        values = {
            **CLAIM_VALUES,
            "ids": bind_numbers(connection, [1]),
            "interactions": bind_texts(connection, ["i-1"]),
            "more": 9,
        }
        explain = "EXPLAIN " if postgresql else "EXPLAIN QUERY PLAN "
        claiming = (sql.ANY_DUE, sql.CLAIM_FIRST_DUE, sql.DEFER_BLOCKED, sql.FOLLOWERS, sql.WAKE_NEXT)
        for query in (*claiming, sql.OLDEST_DUE_AGE):
            plan = "\n".join(map(str, connection.execute(text(explain + query.on(connection).text), values)))
            assert "Seq Scan on outbox_inference_call" not in plan, plan
            assert "SCAN outbox_inference_call'" not in plan, plan  # as opposed to SCAN … USING INDEX
            assert "ix_outbox_inference_call_" in plan, plan


def test_claims_read_no_more_than_their_window_when_statistics_are_old(new_postgresql: NewDatabase) -> None:
    """On PostgreSQL, a claim does not read all of a backlog that grew after the last ANALYZE."""
    engine = create_outbox_engine(new_postgresql())
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox_inference_call (row_id, interaction_id, due_at, state) "
            "SELECT n, 'i-' || n, 1, CASE WHEN n > 100 THEN 'due' ELSE 'done' END FROM generate_series(1, 30000) AS n"
        )
        connection.execute(sql.NOW_FORCING_INDEX_SCANS.on(connection))
        for query in (sql.OLDEST_DUE_AGE, sql.DEFER_BLOCKED, sql.CLAIM_FIRST_DUE):
            statement = text("EXPLAIN (ANALYZE, FORMAT JSON) " + query.on(connection).text)
            (plan,) = connection.execute(statement, {**CLAIM_VALUES, "now": 2, "window": 100}).scalar_one()
            assert max_rows(plan["Plan"]) <= 1_000, plan
    engine.dispose()


CLAIM_VALUES = {"now": 1, "until": 2, "owner": "me", "limit": 10, "window": 1000, "blocked_delay_ms": 1}


def max_rows(plan: dict[str, Any]) -> int:
    """Return the maximum number of rows that a step of the plan read, over all its loops."""
    here = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([int(here), *(max_rows(step) for step in plan.get("Plans", []))])
