"""Membership, pauses, resharding and reconciling on both databases."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError, LeaseLostError, OutboxMismatchError
from outbox.leases import Leases
from outbox.models import Accepted, Lease, shard_of
from outbox.operators import audit, reconcile
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.pause import pause_shards, resume_shards
from outbox.operators.reconcile import TopicRecord
from outbox.operators.reshard import plan_reshard, reshard_rows
from outbox.operators.rows import RowFilter
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
from relay.shard.services import ignore_steps
from relay.shard.worker import ShardWorker
from testkit.databases import NewDatabase
from testkit.outbox import mark, record_ref
from testkit.rows import new_row, new_rows
from testkit.waiting import DEADLINE_SECONDS, wait_until

CONTEXT = AuditContext("ann", "drill", RowFilter())


@pytest.fixture
def four_shards(new_database: NewDatabase) -> Iterator[Engine]:
    """Return an engine on an outbox with four shards."""
    engine = create_outbox_engine(new_database(4))
    yield engine
    engine.dispose()


def take_all(engine: Engine, shards: int) -> list[Lease]:
    """Take the leases of all shards, as an operator command does."""
    leases = Leases(engine, "operator", 60, paused_too=True)
    taken = [leases.take(shard) for shard in range(shards)]
    return [lease for lease in taken if lease is not None]


def shards_of(engine: Engine) -> list[tuple[str, int, str]]:
    """Return interaction, shard and state of each row."""
    with engine.connect() as connection:
        query = "SELECT interaction_id, shard, state FROM outbox_rows ORDER BY id"
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def test_a_relay_is_a_member_until_its_heartbeat_expires_or_it_leaves(engine: Engine) -> None:
    """Members are listed in the order in which they joined, however often they send heartbeats."""
    first, second = Leases(engine, "z-first", 600), Leases(engine, "a-second", 600)
    first.heartbeat(healthy=True)
    second.heartbeat(healthy=False)
    first.heartbeat(healthy=True)
    silent = Leases(engine, "silent", 0)
    silent.heartbeat(healthy=True)
    there = {m.owner: (m.healthy, m.live) for m in first.relays_and_shards()[0]}
    assert there == {"z-first": (True, True), "a-second": (False, True), "silent": (True, False)}
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_relay SET joined_at = joined_at - 1 WHERE owner = 'z-first'")
    first.heartbeat(healthy=True)
    assert first.relays_and_shards()[0][0].owner == "z-first"
    first.leave("silent")
    second.leave()
    assert [m.owner for m in first.relays_and_shards()[0]] == ["z-first"]


def test_a_clock_that_was_set_back_holds_no_shard(engine: Engine) -> None:
    """A lease and a heartbeat from before end an hour from now; other relays do not wait for that."""
    owner, other = Leases(engine, "owner", 600), Leases(engine, "other", 600)
    owner.heartbeat(healthy=True)
    taken = owner.take(0)
    assert taken is not None
    assert other.take(0) is None
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_shard SET lease_expires_at = lease_expires_at + 3600000")
        connection.exec_driver_sql("UPDATE outbox_relay SET expires_at = expires_at + 3600000")
    members, (assignment, *_) = other.relays_and_shards()
    assert [member.live for member in members] == [False]
    assert not assignment.leased
    other.report(0, "waits")
    assert Store(engine).status()[0].condition == "waits"
    owner.renew(taken, 0.0)
    owner.heartbeat(healthy=True)
    assert other.take(0) is None
    assert [member.live for member in other.relays_and_shards()[0]] == [True]
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_shard SET lease_expires_at = lease_expires_at + 3600000")
    assert other.take(0) is not None


def test_no_relay_takes_a_paused_shard(four_shards: Engine) -> None:
    """Until it is resumed; maintenance can take it. Both pause and resume are audited."""
    relay = Leases(four_shards, "relay", 600)
    assert pause_shards(four_shards, 1, None, CONTEXT).shards == [1]
    assert relay.take(1) is None
    assert relay.take(0) is not None
    maintained = Leases(four_shards, "operator", 600, paused_too=True).take(1)
    assert maintained is not None
    assert [(h.paused_by, h.paused_reason) for h in relay.relays_and_shards()[1]][:2] == [
        (None, None),
        ("ann", "drill"),
    ]
    relay_after = Leases(four_shards, "operator", 600)
    relay_after.release(maintained)
    assert resume_shards(four_shards, None, CONTEXT).shards == [1]
    assert resume_shards(four_shards, None, CONTEXT).shards == []
    assert relay.take(1) is not None
    assert [(e.actor, e.verb, e.reason) for e in audit.entries(four_shards)] == [
        ("ann", "pause shard 1", "drill"),
        ("ann", "resume every shard", "drill"),
    ]
    assert audit.verify(four_shards).broken is None


def test_a_pause_expires(four_shards: Engine) -> None:
    """By the database's clock; a later pause replaces an earlier one."""
    relay = Leases(four_shards, "relay", 600)
    assert pause_shards(four_shards, None, None, CONTEXT).shards == [0, 1, 2, 3]
    assert pause_shards(four_shards, 2, 0.2, CONTEXT).shards == [2]
    assert relay.take(2) is None
    status = Store(four_shards).status()
    assert [s.paused_until_ms is None for s in status] == [True, True, False, True]
    wait_until(lambda: relay.take(2), "the pause is over")
    assert Store(four_shards).status()[2].paused_by is None
    assert pause_shards(four_shards, 9, None, CONTEXT).shards == []


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_unsent_rows_move_to_their_new_shard(four_shards: Engine, shards: int) -> None:
    """Pending, parked and discarded rows; sent rows stay, and new rows use the new number of shards."""
    store, operations = Store(four_shards), Operations(four_shards)
    store.record(new_rows(60, interactions=20))
    leases = take_all(four_shards, 4)
    rows = store.pending(leases[0], 10)
    store.park(leases[0], {rows[0].ref: "refused", rows[1].ref: "refused"})
    operations.discard([row.planned for row in operations.find(RowFilter(ids=(rows[1].id,)))], CONTEXT)
    mark(store, 1, [rows[2].ref])
    before = shards_of(four_shards)
    expected = sum(state != "sent" and shard_of(i, shards) != shard for i, shard, state in before)
    assert plan_reshard(four_shards, 4, shards) == (4, shards, 59, expected)
    assert reshard_rows(four_shards, leases, {5: 17}, shards, CONTEXT) == expected
    after = shards_of(four_shards)
    assert {state for _, _, state in after} == {"pending", "parked", "discarded", "sent"}
    assert all(shard == shard_of(i, shards) for i, shard, state in after if state != "sent")
    assert [a for a, b in zip(after, before, strict=True) if a[2] == "sent" and a != b] == []
    store.record([new_row(f"new-{number}") for number in range(10)])
    assert all(shard == shard_of(i, shards) for i, shard, _ in shards_of(four_shards)[60:])
    assert [s.acknowledged_sequence for s in store.status()] == [1, 0, 0, 0, 0, 17, 0][:shards]
    assert store.identity().shards == shards
    assert next(reversed(list(operations.audit()))).verb == f"reshard 4 to {shards}"


def test_a_reshard_needs_every_lease(four_shards: Engine) -> None:
    """If another relay has taken one meanwhile, nothing changes."""
    leases = take_all(four_shards, 4)
    Leases(four_shards, "operator", 60).take(3)
    with pytest.raises(LeaseLostError):
        reshard_rows(four_shards, leases, {}, 2, CONTEXT)
    assert len(Store(four_shards).status()) == 4


def test_a_reshard_that_was_planned_for_another_number_changes_nothing(four_shards: Engine) -> None:
    """Planned for four shards of now six: the rows of the two unknown ones would be stranded."""
    reshard_rows(four_shards, take_all(four_shards, 4), {}, 6, CONTEXT)
    Store(four_shards).record(new_rows(30, interactions=30))
    before = shards_of(four_shards)
    with pytest.raises(OutboxMismatchError, match="6"):
        reshard_rows(four_shards, take_all(four_shards, 4), {}, 2, CONTEXT)
    assert (len(Store(four_shards).status()), shards_of(four_shards)) == (6, before)


def test_sent_rows_of_a_removed_shard_can_be_erased(four_shards: Engine) -> None:
    """Sent rows keep the number of their shard."""
    store, operations = Store(four_shards), Operations(four_shards)
    store.record(new_rows(20, interactions=20))
    for lease in take_all(four_shards, 4):
        mark(store, 1, [row.ref for row in store.pending(lease, 20)], shard=lease.shard)
    reshard_rows(four_shards, take_all(four_shards, 4), {}, 1, CONTEXT)
    planned = [row.planned for row in operations.find(RowFilter())]
    assert operations.erase(planned, CONTEXT) == [row.id for row in planned]


def test_new_shards_are_paused_if_every_old_one_is(four_shards: Engine) -> None:
    """So relays stay paused until an operator resumes them."""
    pause_shards(four_shards, None, None, CONTEXT)
    reshard_rows(four_shards, take_all(four_shards, 4), {}, 6, CONTEXT)
    assert [s.paused_by for s in Store(four_shards).status()] == ["ann"] * 6
    resume_shards(four_shards, 2, CONTEXT)
    reshard_rows(four_shards, take_all(four_shards, 6), {}, 7, CONTEXT)
    assert Store(four_shards).status()[6].paused_by is None


def test_rows_inserted_during_a_reshard_get_the_new_shard(four_shards: Engine) -> None:
    """At whatever time an insert runs."""
    store, stop = Store(four_shards), threading.Event()

    def insert() -> None:
        while not stop.wait(0.002):  # SQLite's one lock is for whoever asks at the right moment
            with suppress(DatabaseUnavailableError):  # as the webhook, which answers 503
                store.record(new_rows(5, interactions=97))

    senders = [threading.Thread(target=insert) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        for old, new in ((4, 9), (9, 2), (2, 5)):
            seen = len(shards_of(four_shards))
            wait_until(lambda: len(shards_of(four_shards)) > seen + 20, "rows come in")  # noqa: B023 - called at once
            reshard_rows(four_shards, take_all(four_shards, old), {}, new, CONTEXT)
    finally:
        stop.set()
        for sender in senders:
            sender.join()
    assert all(shard == shard_of(i, 5) for i, shard, _ in shards_of(four_shards))


def test_a_record_matches_a_row_by_id_interaction_and_time(store: Store, engine: Engine) -> None:
    """A restored database assigns ids again: another interaction or time of receipt is another row."""
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


def test_reconciling_marks_rows_and_acknowledges_the_record(store: Store, engine: Engine) -> None:
    """Also if nothing was acknowledged before; the calls are due, and both steps are audited and need the lease."""
    store.record(new_rows(3))
    (lease,) = take_all(engine, 1)
    rows = store.pending(lease, 10)
    refs = [row.ref for row in rows[:2]]
    assert reconcile.mark_published(engine, lease, 7, refs, CONTEXT, inference=True) == 2
    assert store.status()[0].acknowledged_sequence == 0
    reconcile.advance_sequence(engine, lease, record_ref(7), "reconcile", CONTEXT)
    (status,) = store.status()
    assert (status.acknowledged_sequence, status.pending) == (7, 1)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM outbox_inference_call").scalar_one() == 2
    reconcile.advance_sequence(engine, lease, record_ref(5), "reconcile", CONTEXT)
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
        reconcile.mark_published(engine, lease, 7, [rows[2].ref], CONTEXT, inference=False)
    with pytest.raises(LeaseLostError):
        reconcile.advance_sequence(engine, lease, record_ref(9), "reconcile", CONTEXT)


def stored(shard: int, sequence: int) -> StoredProgress:
    """Return a progress record without rows."""
    return StoredProgress(Progress("o", shard, 1, sequence, ()), record_ref(sequence))


def maintenance_of(engine: Engine, read_back: Callable[[int], StoredProgress | None]) -> ShardMaintenance:
    """Return the maintenance of an operator command, for which Kafka returns the given records."""
    services: Any = SimpleNamespace(
        leases=Leases(engine, "operator", 60, paused_too=True),
        dead_owner=lambda _shard: None,
        check_identity=lambda: None,
        clients=SimpleNamespace(
            outbox_id="o",
            publisher=lambda _shard, _stopping: SimpleNamespace(
                fence=lambda: None, close=lambda: None, publish=lambda *_: 0
            ),
            read_back=lambda shard, _stopping, _below: read_back(shard),
        ),
        store=Store(engine),
        inference=False,
        step=ignore_steps,
        clock=monotonic,
    )
    settings: Any = None  # only read where topics are
    return ShardMaintenance(settings, services, 0)


def ignore(_value: object) -> None:
    """Report to nobody."""


def test_a_shard_that_is_being_sent_need_not_be_reconciled(store: Store, engine: Engine) -> None:
    """A relay may get ahead while Kafka is read; only a shard behind Kafka needs a reconcile."""
    last = itertools.count(1)

    def sent_meanwhile(shard: int) -> StoredProgress:
        for sequence in itertools.islice(last, 5):
            mark(store, sequence, (), shard=shard)
        return stored(shard, sequence)

    sending = maintenance_of(engine, sent_meanwhile)
    assert plan_database_reconcile(engine, sending, (), None, ignore).sequences == {}
    ahead = maintenance_of(engine, lambda shard: stored(shard, 17))
    assert plan_database_reconcile(engine, ahead, (), None, ignore).sequences == {0: 17}


def test_a_reconciled_shard_can_be_sent_while_others_are_reconciled(four_shards: Engine) -> None:
    """It is given back at once; that a relay takes it does not disturb the rest."""
    store = Store(four_shards)
    store.record(new_rows(20, interactions=20))
    held_shards = maintenance_of(four_shards, lambda shard: stored(shard, 5))
    plan = DatabaseReconcilePlan({0: 5, 1: 5})
    (lease,) = [lease for lease in take_all(four_shards, 2) if lease.shard == 1]
    plan.published[1] = {row.ref for row in store.pending(lease, 20)}
    Leases(four_shards, "operator", 60).release(lease)
    relay = Leases(four_shards, "relay", 60)
    taken_meanwhile = []

    def reconcile_shard(shard: int) -> None:
        reconcile_database(four_shards, held_shards, plan, shard, CONTEXT, "reconcile")
        taken_meanwhile.append(shard == 0 or relay.take(0) is not None)

    assert for_each_shard(held_shards, [0, 1], reconcile_shard, ignore) == [0, 1]
    assert taken_meanwhile == [True, True]
    assert relay.take(1) is not None
    assert [s.acknowledged_sequence for s in store.status()] == [5, 5, 0, 0]


@pytest.mark.parametrize(("selected", "above"), [((), 3), ((0,), 0)])
def test_every_row_of_a_selected_shard_is_searched(
    store: Store, engine: Engine, selected: tuple[int, ...], above: int
) -> None:
    """The topic may have lost more than the progress topic shows, so an operator can select any shard."""
    for sequence in range(1, 6):
        mark(store, sequence, ())
    plan = plan_kafka_reconcile(engine, maintenance_of(engine, lambda shard: stored(shard, 3)), selected)
    assert [(loss.inspection.shard, loss.above) for loss in plan.losses] == [(0, above)]


def test_a_selected_shard_whose_database_went_back_is_left_incomplete(four_shards: Engine) -> None:
    """The other shard, for which Kafka may have lost rows, is reconciled."""
    held_shards = maintenance_of(four_shards, lambda shard: stored(shard, 7) if shard == 0 else None)
    plan = plan_kafka_reconcile(four_shards, held_shards, (0, 1))
    assert plan.database_went_back == [0]
    (loss,) = plan.losses

    def accept_loss(_shard: int) -> None:
        lost_rows.resend_lost_rows(four_shards, held_shards, loss, CONTEXT, "accept the loss of")

    assert for_each_shard(held_shards, [loss.inspection.shard], accept_loss, ignore) == [1]
    assert not plan.is_complete([1], (0, 1))
    assert plan.is_complete([1], (1,))
    assert [s.acknowledged_sequence for s in Store(four_shards).status()] == [0, 0, 0, 0]
    done = [entry.verb for entry in Operations(four_shards).audit()]
    assert done == ["accept the loss of shard 1, settled 0 to 0"]


def test_a_shard_that_was_sent_since_the_plan_is_left_unchanged(store: Store, engine: Engine) -> None:
    """The plan does not know the rows of the new transaction, which would be sent twice; the next plan does."""
    store.record(new_rows(2))
    (lease,) = take_all(engine, 1)
    plan = DatabaseReconcilePlan({0: 5})
    plan.published[0] = {row.ref for row in store.pending(lease, 10)}
    Leases(engine, "operator", 60).release(lease)
    held_shards = maintenance_of(engine, lambda shard: stored(shard, 6))
    with pytest.raises(UnavailableError, match="shard 0 was sent since the plan"):
        reconcile_database(engine, held_shards, plan, 0, CONTEXT, "reconcile")
    held_shards.give_all_back()
    (status,) = store.status()
    assert (status.acknowledged_sequence, status.pending, status.owner) == (0, 2, None)


class FailingOnceLeases(Leases):
    """Leases that cannot store the first condition, as the database is unavailable."""

    away = True

    def report(self, shard: int, condition: str | None) -> None:
        """As ever, but for the first time."""
        if self.away:
            self.away = False
            raise DatabaseUnavailableError("away")
        super().report(shard, condition)


@pytest.fixture
def blocked_relay(engine: Engine) -> Iterator[threading.Thread]:
    """Run a relay on the only shard that cannot reach Kafka."""

    def fence() -> None:
        raise UnavailableError("no broker")

    stop = threading.Event()
    services: Any = SimpleNamespace(
        leases=FailingOnceLeases(engine, "relay", 600),
        dead_owner=lambda _shard: None,
        check_identity=lambda: None,
        clients=SimpleNamespace(publisher=lambda _shard, _stopping: SimpleNamespace(fence=fence, close=lambda: None)),
        batch_size=1,
        step=ignore_steps,
        health=Health(),
        metrics=RelayMetrics(CollectorRegistry()),
        clock=monotonic,
    )
    thread = threading.Thread(target=ShardWorker(0, services, stop).run)
    thread.start()
    yield thread
    stop.set()
    thread.join()


@pytest.mark.usefixtures("blocked_relay")
def test_the_condition_of_a_shard_is_shown_as_long_as_it_lasts(store: Store, engine: Engine) -> None:
    """Also if it could not be stored at first, or if maintenance removed it."""
    wait_until(lambda: store.status()[0].condition == "no broker", "it is shown")
    Leases(engine, "relay", 600).report(0, None)
    wait_until(lambda: store.status()[0].condition == "no broker", "it is shown again")


def test_a_waiting_relay_releases_a_shard_that_is_paused(
    store: Store, engine: Engine, blocked_relay: threading.Thread
) -> None:
    """So maintenance need not wait for the lease to expire."""
    wait_until(lambda: store.status()[0].owner == "relay", "it is taken")
    pause_shards(engine, 0, None, CONTEXT)
    blocked_relay.join(DEADLINE_SECONDS)
    assert not blocked_relay.is_alive()
    assert store.status()[0].owner is None
