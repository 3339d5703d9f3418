"""Sharing, pauses, resharding and reconciling: what both databases must do alike."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError, LeaseLostError, OutboxMismatchError
from outbox.leases import Leases
from outbox.models import Accepted, AuditContext, Lease, RowFilter, shard_of
from outbox.operators import audit, reconcile
from outbox.operators.change import Operations
from outbox.operators.pause import pause_shards, resume_shards
from outbox.operators.reconcile import TopicRecord
from outbox.operators.reshard import plan_reshard, reshard_rows
from outbox.store import Store
from relay.errors import UnavailableError
from relay.health import Health
from relay.kafka.progress import Progress, StoredProgress
from relay.metrics import RelayMetrics
from relay.process import lost_rows
from relay.process.maintenance import ShardMaintenance
from relay.process.reconcile import (
    DatabaseReconcilePlan,
    for_each_shard,
    plan_database_reconcile,
    plan_kafka_reconcile,
    reconcile_database,
)
from relay.shard.worker import ShardWorker
from testkit.databases import NewDatabase
from testkit.outbox import mark, record_ref
from testkit.rows import new_row, new_rows
from testkit.waiting import DEADLINE_SECONDS, wait_until

ORDER = AuditContext("ann", "drill", RowFilter())


@pytest.fixture
def four(new_database: NewDatabase) -> Iterator[Engine]:
    """An outbox with four shards."""
    engine = create_outbox_engine(new_database(4))
    yield engine
    engine.dispose()


def take_all(engine: Engine, shards: int) -> list[Lease]:
    """Every shard's lease, as an operator's verb takes them."""
    leases = Leases(engine, "operator", 60, paused_too=True)
    taken = [leases.take(shard) for shard in range(shards)]
    return [lease for lease in taken if lease is not None]


def shards_of(engine: Engine) -> list[tuple[str, int, str]]:
    """Interaction, shard and state of each row."""
    with engine.connect() as connection:
        query = "SELECT interaction_id, shard, state FROM outbox ORDER BY id"
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def test_a_relay_is_there_until_its_heartbeat_runs_out_or_it_leaves(engine: Engine) -> None:
    """Members come in the order in which they joined, however often they beat."""
    first, second = Leases(engine, "z-first", 600), Leases(engine, "a-second", 600)
    first.heartbeat(healthy=True)
    second.heartbeat(healthy=False)
    first.heartbeat(healthy=True)
    silent = Leases(engine, "silent", 0)
    silent.heartbeat(healthy=True)
    there = {m.owner: (m.healthy, m.live) for m in first.shared()[0]}
    assert there == {"z-first": (True, True), "a-second": (False, True), "silent": (True, False)}
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_relay SET joined_at = joined_at - 1 WHERE owner = 'z-first'")
    first.heartbeat(healthy=True)
    assert first.shared()[0][0].owner == "z-first"
    first.leave("silent")
    second.leave()
    assert [m.owner for m in first.shared()[0]] == ["z-first"]


def test_a_paused_shard_is_taken_by_no_relay(four: Engine) -> None:
    """Until it is resumed; who looks after it may take it. Both ends go on record."""
    relay = Leases(four, "relay", 600)
    assert pause_shards(four, 1, None, ORDER) == [1]
    assert relay.take(1) is None
    assert relay.take(0) is not None
    looked_after = Leases(four, "operator", 600, paused_too=True).take(1)
    assert looked_after is not None
    assert [(h.paused_by, h.paused_reason) for h in relay.shared()[1]][:2] == [(None, None), ("ann", "drill")]
    relay_after = Leases(four, "operator", 600)
    relay_after.release(looked_after)
    assert resume_shards(four, None, ORDER) == [1]
    assert resume_shards(four, None, ORDER) == []
    assert relay.take(1) is not None
    assert [(e.actor, e.verb, e.reason) for e in audit.entries(four)] == [
        ("ann", "pause shard 1", "drill"),
        ("ann", "resume every shard", "drill"),
    ]
    assert audit.verify(four).broken is None


def test_a_pause_ends_by_itself(four: Engine) -> None:
    """By the database's clock; a later pause replaces an earlier one."""
    relay = Leases(four, "relay", 600)
    assert pause_shards(four, None, None, ORDER) == [0, 1, 2, 3]
    assert pause_shards(four, 2, 0.2, ORDER) == [2]
    assert relay.take(2) is None
    status = Store(four).status()
    assert [s.paused_until_ms is None for s in status] == [True, True, False, True]
    wait_until(lambda: relay.take(2), "the pause is over")
    assert Store(four).status()[2].paused_by is None
    assert pause_shards(four, 9, None, ORDER) == []


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_rows_not_sent_move_to_their_new_shard(four: Engine, shards: int) -> None:
    """Pending, parked and discarded rows; sent ones stay as they are; new rows follow the new number."""
    store, verbs = Store(four), Operations(four)
    store.record(new_rows(60, interactions=20))
    leases = take_all(four, 4)
    rows = store.pending(leases[0], 10)
    store.park(leases[0], {rows[0].ref: "refused", rows[1].ref: "refused"})
    verbs.discard([row.planned for row in verbs.find(RowFilter(ids=(rows[1].id,)))], ORDER)
    mark(store, 1, [rows[2].ref])
    before = shards_of(four)
    expected = sum(state != "sent" and shard_of(i, shards) != shard for i, shard, state in before)
    assert plan_reshard(four, 4, shards) == (4, shards, 59, expected)
    assert reshard_rows(four, leases, {5: 17}, shards, ORDER) == expected
    after = shards_of(four)
    assert {state for _, _, state in after} == {"pending", "parked", "discarded", "sent"}
    assert all(shard == shard_of(i, shards) for i, shard, state in after if state != "sent")
    assert [a for a, b in zip(after, before, strict=True) if a[2] == "sent" and a != b] == []
    store.record([new_row(f"new-{number}") for number in range(10)])
    assert all(shard == shard_of(i, shards) for i, shard, _ in shards_of(four)[60:])
    assert [s.acknowledged_sequence for s in store.status()] == [1, 0, 0, 0, 0, 17, 0][:shards]
    assert store.identity().shards == shards
    assert next(reversed(list(verbs.audit()))).verb == f"reshard 4 to {shards}"


def test_a_reshard_needs_every_lease(four: Engine) -> None:
    """One that another relay took meanwhile: nothing has changed."""
    leases = take_all(four, 4)
    Leases(four, "operator", 60).take(3)
    with pytest.raises(LeaseLostError):
        reshard_rows(four, leases, {}, 2, ORDER)
    assert len(Store(four).status()) == 4


def test_a_reshard_after_another_one_changes_nothing(four: Engine) -> None:
    """Planned for four shards, of which there are six meanwhile: the rows of the two unknown ones would be stranded."""
    reshard_rows(four, take_all(four, 4), {}, 6, ORDER)
    Store(four).record(new_rows(30, interactions=30))
    before = shards_of(four)
    with pytest.raises(OutboxMismatchError, match="6"):
        reshard_rows(four, take_all(four, 4), {}, 2, ORDER)
    assert (len(Store(four).status()), shards_of(four)) == (6, before)


def test_what_was_sent_by_a_shard_that_is_gone_can_be_erased(four: Engine) -> None:
    """Sent rows keep the number of their shard; fewer shards keep nobody's data from being erased."""
    store, verbs = Store(four), Operations(four)
    store.record(new_rows(20, interactions=20))
    for lease in take_all(four, 4):
        mark(store, 1, [row.ref for row in store.pending(lease, 20)], shard=lease.shard)
    reshard_rows(four, take_all(four, 4), {}, 1, ORDER)
    planned = [row.planned for row in verbs.find(RowFilter())]
    assert verbs.erase(planned, ORDER) == [row.id for row in planned]


def test_new_shards_are_paused_if_every_old_one_is(four: Engine) -> None:
    """So that relays stay paused until the operator resumes them."""
    pause_shards(four, None, None, ORDER)
    reshard_rows(four, take_all(four, 4), {}, 6, ORDER)
    assert [s.paused_by for s in Store(four).status()] == ["ann"] * 6
    resume_shards(four, 2, ORDER)
    reshard_rows(four, take_all(four, 6), {}, 7, ORDER)
    assert Store(four).status()[6].paused_by is None


def test_rows_inserted_while_the_number_changes_get_the_new_one(four: Engine) -> None:
    """Whatever moment an insert meets: its shard is the one of the number that holds afterwards."""
    store, stop = Store(four), threading.Event()

    def insert() -> None:
        while not stop.wait(0.002):  # SQLite's one lock is for whoever asks at the right moment
            with suppress(DatabaseUnavailableError):  # as the webhook, which answers 503
                store.record(new_rows(5, interactions=97))

    senders = [threading.Thread(target=insert) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        for old, new in ((4, 9), (9, 2), (2, 5)):
            seen = len(shards_of(four))
            wait_until(lambda: len(shards_of(four)) > seen + 20, "rows come in")  # noqa: B023 - called at once
            reshard_rows(four, take_all(four, old), {}, new, ORDER)
    finally:
        stop.set()
        for sender in senders:
            sender.join()
    assert all(shard == shard_of(i, 5) for i, shard, _ in shards_of(four))


def test_a_record_is_a_row_only_if_id_interaction_and_time_match(store: Store, engine: Engine) -> None:
    """A restored database hands ids out again: another interaction or time of receipt is another row."""
    outcomes = store.record([new_row("i-1"), new_row("i-2")])
    first, second = (o.outbox_id for o in outcomes if isinstance(o, Accepted))
    (lease,) = take_all(engine, 1)
    at = {row.id: row.received_at_ms for row in store.pending(lease, 10)}
    records = [
        TopicRecord(first, "i-1", at[first]),
        TopicRecord(first, "i-2", at[first]),
        TopicRecord(second, "i-2", at[second] + 1),
        TopicRecord(99, "i-1", at[first]),
    ]
    known = reconcile.match_records(engine, records)
    assert [(row.id, row.state, row.record) for row in known] == [(first, "pending", records[0])]
    assert reconcile.match_records(engine, []) == []
    assert reconcile.unsent_before(engine, at[first]) == 0
    assert reconcile.unsent_before(engine, at[second] + 1) == 2


def test_reconciling_marks_what_was_found_and_lets_the_shard_go_on(store: Store, engine: Engine) -> None:
    """Also from nothing settled; the calls are due, the sequence is settled, both go on record under the lease."""
    store.record(new_rows(3))
    (lease,) = take_all(engine, 1)
    rows = store.pending(lease, 10)
    refs = [row.ref for row in rows[:2]]
    assert reconcile.mark_published(engine, lease, 7, refs, ORDER, inference=True) == 2
    assert store.status()[0].acknowledged_sequence == 0
    reconcile.advance_sequence(engine, lease, record_ref(7), "reconcile", ORDER)
    (status,) = store.status()
    assert (status.acknowledged_sequence, status.pending) == (7, 1)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM outbox_inference_call").scalar_one() == 2
    reconcile.advance_sequence(engine, lease, record_ref(5), "reconcile", ORDER)
    assert store.status()[0].acknowledged_sequence == 7
    entries = list(Operations(engine).audit())
    assert [entry.verb for entry in entries] == [
        "reconcile shard 0",
        "reconcile shard 0, settled 0 to 7",
        "reconcile shard 0, settled 7 to 7",
    ]
    assert entries[0].row_ids == str([ref.id for ref in refs])
    Leases(engine, "operator", 60).take(0)
    with pytest.raises(LeaseLostError):
        reconcile.mark_published(engine, lease, 7, [rows[2].ref], ORDER, inference=False)
    with pytest.raises(LeaseLostError):
        reconcile.advance_sequence(engine, lease, record_ref(9), "reconcile", ORDER)


def stored(shard: int, sequence: int) -> StoredProgress:
    """A progress record without rows."""
    return StoredProgress(Progress("o", shard, 1, sequence, ()), record_ref(sequence))


def custody_of(engine: Engine, read_back: Callable[[int], StoredProgress | None]) -> ShardMaintenance:
    """An operator's verb that has found its services; Kafka answers as told."""
    services: Any = SimpleNamespace(
        read_back=lambda shard, _stop, _below: read_back(shard),
        shard_services=lambda *_: SimpleNamespace(
            leases=Leases(engine, "operator", 60, paused_too=True),
            dead_owner=lambda _shard: None,
            check_identity=lambda: None,
            publisher=lambda _: SimpleNamespace(fence=lambda: None, close=lambda: None, publish=lambda *_: 0),
            read_back=read_back,
            store=Store(engine),
            outbox_id="o",
            batch_size=1,
            inference=False,
            step=lambda _name, _shard: None,
        ),
    )
    return ShardMaintenance(services, 0)


def ignore(_value: object) -> None:
    """Report to nobody."""


def test_a_shard_that_is_being_sent_does_not_wait_to_be_reconciled(store: Store, engine: Engine) -> None:
    """However far a relay gets while Kafka is asked; one that is behind what Kafka holds does."""
    last = itertools.count(1)

    def sent_meanwhile(shard: int) -> StoredProgress:
        for sequence in itertools.islice(last, 5):
            mark(store, sequence, (), shard=shard)
        return stored(shard, sequence)

    sending = custody_of(engine, sent_meanwhile)
    assert plan_database_reconcile(engine, sending, (), None, ignore).sequences == {}
    ahead = custody_of(engine, lambda shard: stored(shard, 17))
    assert plan_database_reconcile(engine, ahead, (), None, ignore).sequences == {0: 17}


def test_a_reconciled_shard_can_be_sent_while_others_are_reconciled(four: Engine) -> None:
    """It is given back at once; that a relay takes it does not disturb the rest."""
    store = Store(four)
    store.record(new_rows(20, interactions=20))
    held = custody_of(four, lambda shard: stored(shard, 5))
    plan = DatabaseReconcilePlan({0: 5, 1: 5})
    (lease,) = [lease for lease in take_all(four, 2) if lease.shard == 1]
    plan.published[1] = {row.ref for row in store.pending(lease, 20)}
    Leases(four, "operator", 60).release(lease)
    relay = Leases(four, "relay", 60)
    taken_meanwhile = []

    def reconcile_shard(shard: int) -> None:
        reconcile_database(four, held, plan, shard, ORDER, "reconcile")
        taken_meanwhile.append(shard == 0 or relay.take(0) is not None)

    assert for_each_shard(held, [0, 1], reconcile_shard, ignore) == [0, 1]
    assert taken_meanwhile == [True, True]
    assert relay.take(1) is not None
    assert [s.acknowledged_sequence for s in store.status()] == [5, 5, 0, 0]


@pytest.mark.parametrize(("named", "above"), [((), 3), ((0,), 0)])
def test_every_row_of_a_selected_shard_is_searched(
    store: Store, engine: Engine, named: tuple[int, ...], above: int
) -> None:
    """The topic may have lost more than the progress topic shows, so an operator can select any shard."""
    for sequence in range(1, 6):
        mark(store, sequence, ())
    plan = plan_kafka_reconcile(engine, custody_of(engine, lambda shard: stored(shard, 3)), named)
    assert [(loss.look.shard, loss.above) for loss in plan.losses] == [(0, above)]


def test_a_selected_shard_whose_database_went_back_is_left_incomplete(four: Engine) -> None:
    """The other shard, for which Kafka may have lost rows, is reconciled."""
    held = custody_of(four, lambda shard: stored(shard, 7) if shard == 0 else None)
    plan = plan_kafka_reconcile(four, held, (0, 1))
    assert plan.database_went_back == [0]
    (loss,) = plan.losses

    def accept_loss(_shard: int) -> None:
        lost_rows.repair(four, held, loss, ORDER, "accept the loss of")

    assert for_each_shard(held, [loss.look.shard], accept_loss, ignore) == [1]
    assert not plan.is_complete([1], (0, 1))
    assert plan.is_complete([1], (1,))
    assert [s.acknowledged_sequence for s in Store(four).status()] == [0, 0, 0, 0]
    done = [entry.verb for entry in Operations(four).audit()]
    assert done == ["accept the loss of shard 1, settled 0 to 0"]


def test_a_shard_that_was_sent_since_the_plan_is_left_unchanged(store: Store, engine: Engine) -> None:
    """The plan does not know the rows of the new transaction, which would be sent twice; the next plan does."""
    store.record(new_rows(2))
    (lease,) = take_all(engine, 1)
    plan = DatabaseReconcilePlan({0: 5})
    plan.published[0] = {row.ref for row in store.pending(lease, 10)}
    Leases(engine, "operator", 60).release(lease)
    held = custody_of(engine, lambda shard: stored(shard, 6))
    with pytest.raises(UnavailableError, match="shard 0 was sent since the plan"):
        reconcile_database(engine, held, plan, 0, ORDER, "reconcile")
    held.give_all_back()
    (status,) = store.status()
    assert (status.acknowledged_sequence, status.pending, status.owner) == (0, 2, None)


class Forgetful(Leases):
    """Cannot store the first condition: the database is away just then."""

    away = True

    def report(self, shard: int, condition: str | None) -> None:
        """As ever, but for the first time."""
        if self.away:
            self.away = False
            raise DatabaseUnavailableError("away")
        super().report(shard, condition)


@pytest.fixture
def unable(engine: Engine) -> Iterator[threading.Thread]:
    """A relay at work on the only shard, which cannot reach Kafka."""

    def fence() -> None:
        raise UnavailableError("no broker")

    stop = threading.Event()
    shard_services: Any = SimpleNamespace(
        leases=Forgetful(engine, "relay", 600),
        dead_owner=lambda _shard: None,
        check_identity=lambda: None,
        publisher=lambda _shard: SimpleNamespace(fence=fence, close=lambda: None),
        batch_size=1,
        step=lambda _name, _shard: None,
        stop=stop,
        health=Health(),
        metrics=RelayMetrics(CollectorRegistry()),
    )
    thread = threading.Thread(target=ShardWorker(0, shard_services).run)
    thread.start()
    yield thread
    stop.set()
    thread.join()


@pytest.mark.usefixtures("unable")
def test_why_a_shard_waits_is_shown_for_as_long_as_it_does(store: Store, engine: Engine) -> None:
    """Also if it could not be stored at first, or was taken away by who looked after the shard."""
    wait_until(lambda: store.status()[0].condition == "no broker", "it is shown")
    Leases(engine, "relay", 600).report(0, None)
    wait_until(lambda: store.status()[0].condition == "no broker", "it is shown again")


def test_a_shard_that_is_paused_while_its_relay_waits_is_given_back(
    store: Store, engine: Engine, unable: threading.Thread
) -> None:
    """No lease has to run out before it can be looked after."""
    wait_until(lambda: store.status()[0].owner == "relay", "it is taken")
    pause_shards(engine, 0, None, ORDER)
    unable.join(DEADLINE_SECONDS)
    assert (unable.is_alive(), store.status()[0].owner) == (False, None)
