"""Planned changes on both databases: what a plan says before, and what applying it does."""

import json
from collections.abc import Callable, Iterable
from time import time

import pytest
from sqlalchemy import Engine, text

from outbox.errors import InvalidRequestError, SchemaOutdatedError
from outbox.operators.apply import CHUNK_ROWS, Outcome, apply_change
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.plan import Plan
from outbox.operators.planned_change import (
    PlannedChange,
    Verb,
    plan_discard,
    plan_prune,
    plan_retry,
    plan_retry_calls,
    restrict,
    until_now,
)
from outbox.operators.planned_erasure import SEARCHED, plan_erase, rows_of_person
from outbox.operators.planned_replay import check_plan_name, plan_call_again, plan_name, plan_replay
from outbox.operators.rows import FoundRow, RowFilter
from outbox.store import Store
from testkit.outbox import call_states, mark_sent, park, park_calls, planned, record, states
from testkit.rows import new_row, new_rows

CONTEXT = AuditContext("ann", "topic limit raised", RowFilter())
UNTIL = 4_102_444_800_000
"""The year 2100."""
UNTIL_ARGUMENT = ("--until", "2100-01-01T00:00:00.000+00:00")


@pytest.fixture
def operations(engine: Engine) -> Operations:
    """Return the operations of a fresh database."""
    return Operations(engine)


def parked(store: Store, engine: Engine, count: int) -> list[int]:
    """Record and park rows; return their ids."""
    ids = record(store, new_rows(count))
    park(store, engine, dict.fromkeys(ids, "too large"))
    return ids


def sent(store: Store, operations: Operations, count: int) -> list[int]:
    """Record rows and mark them sent with due calls; return their ids."""
    ids = record(store, new_rows(count))
    mark_sent(store, 1, planned(operations), inference=True)
    return ids


# What a plan says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "state", "consequence"),
    [
        (plan_retry, "pending", "each is sent before the rows waiting behind it (2 now)"),
        (plan_discard, "discarded", "they are never sent; the rows waiting behind them (2 now) are"),
    ],
)
def test_a_plan_of_parked_rows_counts_the_rows_behind_them(
    operations: Operations,
    store: Store,
    engine: Engine,
    plan: Callable[[Operations, RowFilter], PlannedChange],
    state: str,
    consequence: str,
) -> None:
    """It changes nothing until it is applied, then exactly the parked rows; the audit has the filter and its state."""
    ids = record(store, new_rows(3, interactions=1))
    park(store, engine, {ids[0]: "too large"})
    change = plan(operations, RowFilter(until_ms=UNTIL))
    assert change.consequences == (consequence,)
    assert change.arguments == (change.verb.command, "--state", "parked", *UNTIL_ARGUMENT)
    assert states(engine)[ids[0]] == "parked"
    assert apply_change(change, CONTEXT) == Outcome(1, 1, "")
    assert states(engine) == {ids[0]: state, ids[1]: "pending", ids[2]: "pending"}
    (entry,) = operations.audit()
    assert (entry.actor, entry.verb, entry.reason) == ("ann", change.verb, "topic limit raised")
    assert json.loads(entry.filter) == {"state": "parked", "until_ms": UNTIL}


def test_a_replay_names_topic_and_what_consumers_get_again(operations: Operations, store: Store) -> None:
    """Rows of another plan and rows that are replays are counted; under one name, nothing is replayed twice."""
    ids = sent(store, operations, 2)
    first = plan_replay(operations, RowFilter(until_ms=UNTIL), "one")
    assert first.consequences == ("each is sent again to the default topic with the header replay-of, under plan one",)
    assert apply_change(first, CONTEXT).changed == 2
    mark_sent(store, 2, planned(operations, state="pending"))
    again = plan_replay(operations, RowFilter(ids=tuple(ids)), "one")
    (entry,) = operations.audit()
    assert len(again.plan) == 0
    assert again.empty_reason.startswith(f"already replayed all 2 matching rows: replay one, audit entry {entry.id}, ")
    assert again.empty_reason.endswith(". To replay again, give another reason or plan")
    other = plan_replay(operations, RowFilter(until_ms=UNTIL), "two", "rescue", ("rescue",))
    assert other.consequences == (
        "each is sent again to topic rescue with the header replay-of, under plan two",
        "2 of them were replayed before under another plan: consumers get them again",
        "2 of them are replays; the selection may include their originals",
    )
    assert other.arguments == (
        "replay", "--state", "sent", *UNTIL_ARGUMENT, "--plan", "two", "--topic", "rescue",
    )  # fmt: skip
    assert apply_change(other, CONTEXT).changed == 4
    assert {row.topic for row in operations.find(RowFilter(state="pending"))} == {"rescue"}


def test_calls_are_made_again_once_under_one_name(operations: Operations, store: Store, engine: Engine) -> None:
    """Nothing is sent to Kafka; the audit entry names the replay."""
    ids = sent(store, operations, 2)
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox_inference_call SET state = 'done'"))
    change = plan_call_again(operations, RowFilter(ids=tuple(ids)), "one")
    assert change.consequences == (
        "the inference endpoint is called again for each with the same Idempotency-Key, under plan one",
    )
    assert change.arguments == (
        "replay", "--inference-only", "--id", str(ids[0]), "--id", str(ids[1]), "--state", "sent", "--plan", "one",
    )  # fmt: skip
    assert apply_change(change, CONTEXT).changed == 2
    assert call_states(engine) == dict.fromkeys(ids, "due")
    again = plan_call_again(operations, RowFilter(ids=tuple(ids)), "one")
    assert again.empty_reason.startswith("already replayed all 2 matching rows: replay one --inference-only, audit")


def test_parked_calls_are_planned_by_the_error_of_the_call(
    operations: Operations, store: Store, engine: Engine
) -> None:
    """Calls in other states are left alone."""
    ids = sent(store, operations, 3)
    park_calls(engine, ids[:2], 1000)
    change = plan_retry_calls(operations, RowFilter(error="http 422", until_ms=UNTIL))
    assert change.consequences == ("the endpoint is called again for each, with the same Idempotency-Key",)
    assert change.arguments == (
        "inference", "retry", "--state", "parked", "--error", "http 422", *UNTIL_ARGUMENT,
    )  # fmt: skip
    assert apply_change(change, CONTEXT).changed == 2
    none = plan_retry_calls(operations, RowFilter())
    assert (len(none.plan), none.empty_reason) == (0, "no row matches whose inference call is parked")


def test_an_erasure_tells_where_the_address_remains(operations: Operations, store: Store, engine: Engine) -> None:
    """Sent and pending rows with the address are counted; the address is in no argument."""
    ids = record(store, [new_row(customer_email="someone@example.com") for _ in range(3)])
    mark_sent(store, 1, planned(operations)[:1])
    change = plan_erase(operations, rows_of_person("someone@example.com", None))
    assert change.consequences == (
        SEARCHED,
        "the customer's address and the received body are removed; ids, channel, agent, times and state are kept",
        (
            "1 of them were sent with the address: the records stay in Kafka for the topic's retention; "
            "delete them there and wherever consumers have copied them"
        ),
        (
            "2 of them are pending and will be sent without the address, unless a relay is sending them "
            "now: check with relay show ID --verify"
        ),
    )
    assert change.arguments == ("erase", "--email", "-")
    assert apply_change(change, CONTEXT).changed == 3
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox WHERE customer_email IS NOT NULL")).scalar() == 0
    (interaction,) = {row.interaction_id for row in operations.find(RowFilter(ids=(ids[0],)))}
    again = plan_erase(operations, rows_of_person(None, interaction))
    assert (len(again.plan), "is erased already" in again.empty_reason) == (0, True)
    assert plan_erase(operations, change.rows).empty_reason == f"no row matches; {SEARCHED}"


def test_a_prune_takes_finished_rows(operations: Operations, store: Store, engine: Engine) -> None:
    """Without a filter, those that the retention has expired; a parked call keeps its row unless it is given up."""
    ids = sent(store, operations, 3)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE outbox_inference_call SET state = 'done' WHERE row_id <> {ids[2]}"))
        connection.execute(text(f"UPDATE outbox SET received_at = 1 WHERE id = {ids[0]}"))
        connection.execute(text(f"UPDATE outbox_sent SET sent_at = 1 WHERE id = {ids[0]}"))
    park_calls(engine, ids[2:], 1000)
    expired = plan_prune(operations, None, 3600)
    assert (len(expired.plan), expired.arguments) == (1, ("prune",))
    assert expired.consequences == (
        "they are removed for good: a repeated delivery of one of them would become a new row",
    )
    assert apply_change(expired, CONTEXT).changed == 1
    (entry,) = operations.audit()
    assert abs(json.loads(entry.filter)["until_ms"] - (time() - 3600) * 1000) < 600_000
    rest = plan_prune(operations, RowFilter(until_ms=UNTIL), None)
    assert (len(rest.plan), rest.arguments) == (1, ("prune", *UNTIL_ARGUMENT))
    all_of_them = plan_prune(operations, RowFilter(ids=tuple(ids)), None, parked_calls=True)
    assert all_of_them.arguments[-1] == "--parked-calls"
    assert apply_change(all_of_them, CONTEXT).changed == 2
    assert states(engine) == {}


def test_an_empty_plan_says_in_which_state_the_rows_are(operations: Operations, store: Store) -> None:
    """Rows that are named by id or interaction exist; of others only that none matches is known."""
    ids = record(store, new_rows(2, interactions=1))
    named = plan_retry(operations, RowFilter(ids=tuple(ids)))
    assert (len(named.plan), named.empty_reason) == (0, "no parked row matches, only 2 pending")
    assert plan_discard(operations, RowFilter(channel="voice")).empty_reason == "no row matches"


def test_the_caller_decides_how_rows_are_collected(operations: Operations, store: Store, engine: Engine) -> None:
    """A plan may be limited while its rows are still being found."""
    parked(store, engine, 3)

    def limited(rows: Iterable[FoundRow]) -> Plan:
        return Plan(row for number, row in enumerate(rows) if number < 2)

    assert len(plan_retry(operations, RowFilter(), limited).plan) == 2


# What is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "state", "message"),
    [
        (Verb.RETRY, "sent", "retry takes parked rows only, not sent ones"),
        (Verb.DISCARD, "pending", "discard takes parked rows only, not pending ones"),
        (Verb.REPLAY, "parked", "replay takes sent or discarded rows only, not parked ones"),
        (Verb.CALL_AGAIN, "discarded", "replay takes sent rows only, not discarded ones"),
        (Verb.RETRY_CALLS, "sent", "this command takes parked calls only, not sent ones"),
    ],
)
def test_a_verb_refuses_rows_in_other_states(operations: Operations, verb: Verb, state: str, message: str) -> None:
    """The plan is refused as the filter is, before any row is read."""
    rows = RowFilter(state=state)
    plans: dict[Verb, Callable[[], PlannedChange]] = {
        Verb.RETRY: lambda: plan_retry(operations, rows),
        Verb.DISCARD: lambda: plan_discard(operations, rows),
        Verb.REPLAY: lambda: plan_replay(operations, rows, "one"),
        Verb.CALL_AGAIN: lambda: plan_call_again(operations, rows, "one"),
        Verb.RETRY_CALLS: lambda: plan_retry_calls(operations, rows),
    }
    for request in (lambda: restrict(verb, rows), plans[verb]):
        with pytest.raises(InvalidRequestError) as refused:
            request()
        assert str(refused.value) == message


def test_verbs_have_a_default_state_or_take_any() -> None:
    """An erasure and a prune take rows in any state that is asked for."""
    assert restrict(Verb.REPLAY, RowFilter(channel="voice")) == RowFilter(channel="voice", state="sent")
    assert restrict(Verb.REPLAY, RowFilter(state="discarded")).state == "discarded"
    assert [restrict(verb, RowFilter()).state for verb in (Verb.ERASE, Verb.PRUNE)] == [None, None]


def test_a_replay_goes_to_allowed_topics_only(operations: Operations) -> None:
    """The error lists them."""
    with pytest.raises(InvalidRequestError, match="'else' is not in KAFKA_REPLAY_TOPICS, which allows rescue, audit"):
        plan_replay(operations, RowFilter(), "one", "else", ("rescue", "audit"))
    with pytest.raises(InvalidRequestError, match="which allows none"):
        plan_replay(operations, RowFilter(), "one", "else")


@pytest.mark.parametrize("name", ["", "a b", "ä", "a" * 65, "a\n"])
def test_the_name_of_a_replay_is_short_and_plain(name: str) -> None:
    """It stands in the audit log and in commands."""
    assert check_plan_name("Lost-hour_7") == "Lost-hour_7"
    with pytest.raises(InvalidRequestError, match="takes 1 to 64 letters, digits, hyphens and underscores"):
        check_plan_name(name)
    assert check_plan_name(plan_name(None, {}, "lost"))


def test_an_erasure_is_of_one_person(operations: Operations) -> None:
    """An address and an interaction id may be of two persons; neither would be of everybody."""
    for email, interaction_id in ((None, None), ("someone@example.com", "i-1")):
        with pytest.raises(InvalidRequestError, match="by either --email or --interaction"):
            plan_erase(operations, RowFilter(email=email, interaction_id=interaction_id))


def test_a_prune_without_retention_needs_a_filter(operations: Operations) -> None:
    """Otherwise everything that is finished would be removed."""
    with pytest.raises(InvalidRequestError, match="OUTBOX_RETENTION is off: select rows by a filter"):
        plan_prune(operations, None, None)


def test_a_filter_is_closed_unless_it_names_rows() -> None:
    """So a later run selects no rows that were received since."""
    assert until_now(RowFilter(ids=(1,))) == RowFilter(ids=(1,))
    assert until_now(RowFilter(until_ms=5)) == RowFilter(until_ms=5)
    assert until_now(RowFilter(channel="voice")).until_ms is not None


# How it is applied ---------------------------------------------------------------------------------


def test_a_change_stops_between_chunks(operations: Operations, store: Store, engine: Engine) -> None:
    """The chunk in hand is finished and audited; the rest is untouched, and the same plan continues."""
    parked(store, engine, CHUNK_ROWS + 3)
    change = plan_retry(operations, RowFilter())
    reported: list[int] = []
    outcome = apply_change(change, CONTEXT, stopped=lambda: bool(reported), report=reported.append)
    assert outcome == Outcome(CHUNK_ROWS, CHUNK_ROWS, "interrupted")
    assert reported == [CHUNK_ROWS]
    assert sorted(states(engine).values()) == ["parked"] * 3 + ["pending"] * CHUNK_ROWS
    rest = apply_change(change, CONTEXT)
    assert (rest.changed, rest.skipped) == (3, CHUNK_ROWS)
    assert [len(json.loads(entry.row_ids)) for entry in operations.audit()] == [CHUNK_ROWS, 3]


def test_rows_that_somebody_else_changed_are_skipped(operations: Operations, store: Store, engine: Engine) -> None:
    """They are not in the plan any more, but were processed."""
    ids = parked(store, engine, 3)
    change = plan_discard(operations, RowFilter())
    apply_change(plan_retry(operations, RowFilter(ids=(ids[1],))), CONTEXT)
    outcome = apply_change(change, CONTEXT)
    assert (outcome, outcome.skipped) == (Outcome(2, 3, ""), 1)
    assert states(engine) == {ids[0]: "discarded", ids[1]: "pending", ids[2]: "discarded"}


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        """Return the time."""
        return self.seconds

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds


def test_a_rate_limits_rows_per_second(operations: Operations, store: Store, engine: Engine) -> None:
    """Chunks are no larger than the rate, each starts when it is due, and nothing is waited for after the last."""
    parked(store, engine, 25)
    clock = Clock()
    times: list[tuple[int, float]] = []
    change = plan_retry(operations, RowFilter())

    def report(processed: int) -> None:
        times.append((processed, clock.now()))

    outcome = apply_change(change, CONTEXT, rate=10, report=report, clock=clock.now, wait=clock.wait)
    assert outcome == Outcome(25, 25, "")
    assert times == [(10, 100.0), (20, pytest.approx(101.0)), (25, pytest.approx(102.0))]


def test_a_stop_ends_the_wait_for_the_next_chunk(operations: Operations, store: Store, engine: Engine) -> None:
    """At one row a second, nobody waits a second for it."""
    parked(store, engine, 2)
    clock = Clock()
    change = plan_retry(operations, RowFilter())
    outcome = apply_change(change, CONTEXT, rate=1, stopped=lambda: clock.now() > 100, clock=clock.now, wait=clock.wait)
    assert outcome == Outcome(1, 1, "interrupted")
    assert clock.now() < 100.2


def test_a_database_that_fails_later_ends_the_change(operations: Operations, store: Store, engine: Engine) -> None:
    """The outcome has the error's text; if the first chunk fails, nothing was changed and the error is raised."""
    parked(store, engine, CHUNK_ROWS + 1)
    change = plan_retry(operations, RowFilter())

    def lose_the_audit_log(_processed: int) -> None:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE outbox_audit RENAME TO lost"))

    outcome = apply_change(change, CONTEXT, report=lose_the_audit_log)
    assert outcome[:2] == (CHUNK_ROWS, CHUNK_ROWS)
    with pytest.raises(SchemaOutdatedError) as raised:
        apply_change(plan_retry(operations, RowFilter()), CONTEXT)
    assert outcome.stop_reason == str(raised.value)
    assert sorted(states(engine).values()) == ["parked"] + ["pending"] * CHUNK_ROWS
