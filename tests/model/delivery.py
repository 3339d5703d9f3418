"""The state machine's rules: what may happen to one outbox, its two relays, and the broker."""

import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import PoolProxiedConnection

from outbox.db.engine import BEGIN
from outbox.insert import as_json
from outbox.models import Accepted as Answered
from outbox.models import AuditContext, KeyReused, NewRow, RowFilter, RowRef, new_nonce
from outbox.operators.change import Operations
from outbox.sql.flow import RECORD_POSTGRESQL
from outbox.store import Store
from relay.process.lost_rows import ShardLoss, resend_lost_rows
from relay.shard.recovery import inspect_shard
from relay.shard.worker import PROGRESS_CHECK_SECONDS
from testkit.rows import new_row
from tests.model.assembly import PROGRESS_TOPIC, TOPIC, UNENCODABLE, Relay
from tests.model.broker import Broker, Copy
from tests.model.clients import Fate
from tests.model.ledger import Accepted, Ledger
from tests.model.moments import Moment
from tests.model.stage import DATABASE, KAFKA, LARGE, LIMIT_BYTES, Stage, delivered, row_for

ROUNDS_TO_THE_END = 3000
STEPS_TO_A_PLACE = 60
ORDER = AuditContext("ann", "why not", RowFilter())
PLACES = (
    "leased",
    "fenced",
    "read_back",
    "acknowledged",
    "selected",
    "encoded",
    "append answered",
    "commit asked",
    "commit answered",
    "committed",
    "marked",
    "parked",
    "waits",
)
one_of_two = st.integers(0, 1)
any_row = st.integers(0, 99)
a_place = st.sampled_from(PLACES)
some_steps = st.integers(1, 40)
steps_or_none = st.just(0) | some_steps
interactions = st.sampled_from("XXY")
posts = st.lists(st.tuples(interactions, st.sampled_from(("good", "good", LARGE, UNENCODABLE))), min_size=1, max_size=3)
faults = st.sampled_from([(name, fate) for name in ("init", "append", "commit") for fate in Fate]) | st.sampled_from(
    [(name, Fate.REQUEST_LOST) for name in ("abort", "offsets", "fetch")]
)


class Delivery(RuleBasedStateMachine):
    """One shard, two relays, and everything that may happen to them."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage, self.engine = stage, stage.engine
        self.store, self.operations = Store(self.engine), Operations(self.engine)
        self.broker = stage.clock.broker = Broker()
        self.serial = 0
        self.moment: Moment | None = None
        self.slow: tuple[PoolProxiedConnection, Accepted] | None = None
        self.progress_lost = False
        self.copy: Copy | None = None
        self.seen: set[int] = set()
        self.relays: list[Relay] = []

    @initialize(wanted=posts, waiting=st.booleans(), batch_size=st.integers(1, 3))
    def begin(self, wanted: list[tuple[str, str]], *, waiting: bool, batch_size: int) -> None:
        """A new outbox with some rows, new topics, no relay yet."""
        self.stage.clear()
        self.broker.create(TOPIC)
        self.broker.create(PROGRESS_TOPIC)
        self.broker.limits[TOPIC] = LIMIT_BYTES
        self.ledger = Ledger(waiting)
        dead: set[str] = set()
        self.relays = [
            Relay(engine, self.broker, dead, batch_size, waiting=waiting) for engine in self.stage.relay_engines
        ]
        self.post(wanted)

    # The webhook -----------------------------------------------------------------------------------

    @rule(wanted=posts)
    def post(self, wanted: list[tuple[str, str]]) -> None:
        """Interactions are posted, one after the other, and acknowledged."""
        for interaction, kind in wanted:
            row = self._new_row(interaction, kind)
            (answer,) = self.store.record([row])
            self.ledger.accept(self._accepted(answer, row))

    @precondition(lambda self: self.ledger.rows)
    @rule(pick=any_row, other=st.booleans())
    def post_again(self, pick: int, *, other: bool) -> None:
        """A key comes again: with its body it is the same row, with another it is refused."""
        known = list(self.ledger.rows.values())[pick % len(self.ledger.rows)]
        payload = b"{}" if other else known.payload
        (answer,) = self.store.record([new_row(known.interaction, key=known.key, payload=payload)])
        assert answer == (KeyReused() if other else Answered(known.outbox_id, known.interaction, duplicate=True))

    @precondition(lambda self: self.slow is None and self.engine.dialect.name == "postgresql")
    @rule(interaction=interactions)
    def post_slowly(self, interaction: str) -> None:
        """An id is handed out, and its row is not visible yet. (On SQLite writers queue, so that cannot be.)"""
        row = self._new_row(interaction, "good")
        connection = self.engine.raw_connection()
        driver: Any = connection.driver_connection
        driver.execute(BEGIN["postgresql"])
        ((_, outbox_id),) = driver.execute(RECORD_POSTGRESQL, (as_json([row], [new_nonce()]),))
        self.slow = connection, self._accepted(Answered(outbox_id, row.interaction_id, duplicate=False), row)

    @precondition(lambda self: self.slow is not None)
    @rule()
    def commit_the_slow_post(self) -> None:
        """The row becomes visible, perhaps after those with later ids."""
        assert self.slow is not None
        (connection, accepted), self.slow = self.slow, None
        connection.commit()
        connection.close()
        self.ledger.accept(accepted)

    def _drop_the_slow_post(self) -> None:
        if self.slow is not None:
            self.slow[0].close()
            self.slow = None

    def _new_row(self, interaction: str, kind: str) -> NewRow:
        self.serial += 1
        return row_for(self.serial, interaction, kind)

    def _accepted(self, answer: object, row: NewRow) -> Accepted:
        assert isinstance(answer, Answered)
        assert not answer.duplicate
        return Accepted(
            answer.outbox_id,
            int(row.traceparent or 0),
            row.interaction_id,
            row.key,
            row.payload,
            refusable=row.channel == UNENCODABLE or row.customer_email is not None,
            after=self.ledger.acknowledged(row.interaction_id),
        )

    # The relays ------------------------------------------------------------------------------------

    @rule(which=one_of_two, place=a_place)
    def go_to(self, which: int, place: str) -> None:
        """A relay goes on to a place, or comes to rest before it."""
        for _ in range(STEPS_TO_A_PLACE):
            if self._advance(which) in {place, "waits", "over"}:
                return

    @rule(which=one_of_two, steps=some_steps)
    def go_on(self, which: int, steps: int) -> None:
        """A relay takes some steps; the other one stands still meanwhile, frozen wherever it is."""
        for _ in range(steps):
            self._advance(which)

    @rule(which=one_of_two, place=a_place)
    def kill_at(self, which: int, place: str) -> None:
        """Kill -9 at a place. Others on its host know at once that it is dead, so its lease need not run out."""
        self.go_to(which, place)
        self.relays[which].kill()

    @rule(which=one_of_two)
    def ask_to_stop(self, which: int) -> None:
        """SIGTERM."""
        if self.relays[which].runs:
            self.relays[which].stop.set()

    @rule(which=one_of_two, place=a_place, other_place=a_place, steps=some_steps)
    def freeze(self, which: int, place: str, other_place: str, steps: int) -> None:
        """A relay freezes at a place past its lease, the other one takes the shard, and the first goes on."""
        self.go_to(which, place)
        self.let_the_lease_run_out()
        self.go_on(1 - which, 10)
        self.go_to(1 - which, other_place)
        self.go_on(which, steps)

    @rule()
    def let_the_lease_run_out(self) -> None:
        """Its holder is not told."""
        self.stage.let_the_lease_run_out()

    @rule(which=one_of_two, refuses=st.booleans())
    def change_the_encoder(self, which: int, *, refuses: bool) -> None:
        """Two relays need not be of the same version."""
        self.relays[which].encoder.refuses = refuses

    def _advance(self, which: int) -> str:
        """One step; whoever minds the relays starts one that is dead."""
        if not self.relays[which].runs:
            self.relays[which].start()
        at = self.relays[which].advance()
        if len(self.broker.committed((TOPIC, 0))) != len(self.seen):
            self.all_is_well()
        return at

    # The broker ------------------------------------------------------------------------------------

    @rule(which=one_of_two, fault=faults)
    def cut_the_link(self, which: int, fault: tuple[str, Fate]) -> None:
        """A request to the broker, or its answer, will be lost, or arrive too late."""
        if self.relays[which].runs:
            self.relays[which].link.faults.update([fault])

    @precondition(lambda self: self.broker.late)
    @rule()
    def deliver_late(self) -> None:
        """What was under way arrives after all."""
        self.broker.deliver_late()

    @rule(idle=st.booleans())
    def let_broker_time_pass(self, *, idle: bool) -> None:
        """Open transactions time out, or idle transactional ids are forgotten."""
        if idle:
            self.broker.forget_idle_ids()
        else:
            self.broker.time_out_transactions()

    @rule(refuses=st.booleans())
    def change_the_limit(self, *, refuses: bool) -> None:
        """The topic's limit is raised or lowered."""
        self.broker.limits[TOPIC] = LIMIT_BYTES if refuses else 10 * LIMIT_BYTES

    @precondition(lambda self: not self._a_loss())
    @rule()
    def lose_the_progress_topic(self) -> None:
        """Deleted and made anew: what is not marked at this moment may be doubled, nothing else."""
        self.progress_lost = True
        sent = {(row.serial, row.is_replay) for row in self.stage.held() if row.state == "sent"}
        names = [(r.serial, r.is_replay) for r in delivered(self.broker.not_aborted((TOPIC, 0)))]
        self.ledger.excused.update(name for name in names if name not in sent)
        self.broker.create(PROGRESS_TOPIC)

    @precondition(lambda self: not self._a_loss() and self.copy is None)
    @rule()
    def copy_the_disk(self) -> None:
        """Of the broker, as it is now. Without a progress record in it a loss looks like that of the topic."""
        if self.broker.committed((PROGRESS_TOPIC, 0)):
            self.copy = self.broker.copy()

    @precondition(lambda self: not self._a_loss())
    @rule(
        first=posts, then=posts, after=posts, which=one_of_two, place=a_place, other_place=a_place,
        forgets_ids=st.booleans(), idle=st.booleans(),
    )  # fmt: skip
    def bring_the_broker_back(
        self,
        first: list[tuple[str, str]],
        then: list[tuple[str, str]],
        after: list[tuple[str, str]],
        which: int,
        place: str,
        other_place: str,
        *,
        forgets_ids: bool,
        idle: bool,
    ) -> None:
        """Once: rows are sent, the broker's disk is copied, more are sent, and the broker comes back with the copy.
        Then rows may come, or nothing does, and an operator may act, and be interrupted.
        """
        if self.copy is None:
            self.post(first)
            self.go_to(which, "waits")
            self.copy_the_disk()
        self.post(then)
        self.go_to(which, place)
        if self.copy is None:
            return
        self.broker.go_back(self.copy, forgets_ids=forgets_ids)
        self.ledger.broker_back = True
        self.seen &= {record.offset for record in delivered(self.broker.committed((TOPIC, 0)))}
        if not idle:
            self.post(after)
        self.go_to(which, other_place)

    def _a_loss(self) -> bool:
        return self.ledger.broker_back or self.progress_lost or self.ledger.restored

    @precondition(lambda self: self.ledger.broker_back or self.progress_lost)
    @rule(interrupted=st.sampled_from((None, "sent_again", "recorded")))
    def reconcile(self, interrupted: str | None) -> None:
        """An operator finds the rows that the topic lacks, where a shard waits for that."""
        if self.stage.waits_for_an_operator() != KAFKA:
            return
        self.let_the_lease_run_out()
        place = Relay(self.stage.engine, self.broker, set(), 1, waiting=self.ledger.waiting)
        held = place.look_after(interrupted)
        lost = self.ledger.lost(self.stage.held(), delivered(self.broker.committed((TOPIC, 0))))
        missing = [RowRef(row.id, row.nonce) for row in lost]
        loss = ShardLoss(inspect_shard(self.store, held.read_back, 0), 0, missing=missing)
        try:
            resend_lost_rows(self.engine, held, loss, ORDER, "reconcile")
        except InterruptedError:
            assert self.stage.waits_for_an_operator() == KAFKA
        else:
            assert not self.ledger.lost(self.stage.held(), delivered(self.broker.committed((TOPIC, 0))))
        finally:
            held.give_all_back()
            place.close()

    # The database ----------------------------------------------------------------------------------

    @rule(which=one_of_two, fate=st.sampled_from((Fate.REQUEST_LOST, Fate.ANSWER_LOST)))
    def cut_the_database(self, which: int, fate: Fate) -> None:
        """A relay's next commit in the database, or the answer to it, will be lost."""
        self.relays[which].database.next = fate

    @precondition(lambda self: self.moment is None)
    @rule()
    def back_up(self) -> None:
        """The database as it is now."""
        self.moment = Moment(self.engine)
        self.ledger.remember()

    @precondition(lambda self: not self._a_loss())
    @rule(
        first=posts, then=posts, after=posts, which=one_of_two, steps=steps_or_none, place=a_place, repair=st.booleans()
    )
    def go_back_in_time(
        self,
        first: list[tuple[str, str]],
        then: list[tuple[str, str]],
        after: list[tuple[str, str]],
        which: int,
        steps: int,
        place: str,
        *,
        repair: bool,
    ) -> None:
        """Once: rows are backed up, sent, perhaps after a retry, and the database goes back under its users.
        Then it hands out ids again.
        """
        if self.moment is None:
            self.post(first)
            self.go_to(which, "waits")
            self.post(first)
            self.back_up()
        if repair:
            self._repair()
        self.post(then)
        self.go_on(which, steps)
        self.go_to(which, place)
        self._drop_the_slow_post()
        self._moment().restore(self.engine)
        self.ledger.go_back()
        self.post(after)

    def _moment(self) -> Moment:
        assert self.moment is not None
        return self.moment

    # Operators -------------------------------------------------------------------------------------

    @rule(pick=any_row, verb=st.sampled_from(("retry", "discard")))
    def decide_on_a_parked_row(self, pick: int, verb: str) -> None:
        """Exactly the row that was found changes."""
        found = list(self.operations.find(RowFilter(state="parked")))
        if found:
            row = found[pick % len(found)]
            assert getattr(self.operations, verb)([row.planned], ORDER) == [row.id]

    @rule(pick=any_row, plan=st.sampled_from(("p1", "p2")))
    def replay(self, pick: int, plan: str) -> None:
        """A row is sent again as a new row, once by a plan."""
        found = [row for state in ("sent", "discarded") for row in self.operations.find(RowFilter(state=state))]
        if not found:
            return
        row = found[pick % len(found)]
        known, key = self.ledger.rows[row.id], f"replay:{plan}:{row.id}"
        once = self.ledger.by_key(key) is None and not known.key.startswith(f"replay:{plan}:")
        assert self.operations.replay(plan, [row.planned], ORDER) == ([row.id] if once else [])
        if once:
            (new,) = [held for held in self.stage.held() if held.id not in self.ledger.rows]
            self.ledger.accept(known.replayed(new.id, key))

    def _repair(self) -> None:
        """Whatever refused rows takes them now, and every parked row is tried again."""
        self.change_the_limit(refuses=False)
        for which in (0, 1):
            self.change_the_encoder(which, refuses=False)
        self.operations.retry([row.planned for row in self.operations.find(RowFilter(state="parked"))], ORDER)

    # What must hold --------------------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        """The database and the topic agree with the reference, and no relay met what nobody expected."""
        if not self.relays:
            return
        records = delivered(self.broker.committed((TOPIC, 0)))
        self.ledger.check(self.stage.held(), records, [record for record in records if record.offset not in self.seen])
        self.seen.update(record.offset for record in records)
        for relay in self.relays:
            assert "unexpected" not in relay.health.conditions().get("shard 0", "")
        waits = self.stage.waits_for_an_operator()
        kafka = self.ledger.broker_back or self.progress_lost  # a topic made anew begins at offset 0 again
        rightly = {None, DATABASE if self.ledger.restored else None, KAFKA if kafka else None}
        assert waits in rightly, f"the shard says that the {waits} went back; it did not"

    def teardown(self) -> None:
        """Nothing goes wrong any more: every row comes to its end, also those that were parked until now."""
        try:
            if self.relays and sys.exc_info()[0] is None:
                self._come_to_rest()
                self.reconcile(None)
                self._come_to_rest()
                self._repair()
                self._come_to_rest()
                assert self.stage.waits_for_an_operator() != KAFKA
        finally:
            self._drop_the_slow_post()
            for relay in self.relays:
                relay.close()

    def _come_to_rest(self) -> None:
        if self.slow is not None:
            self.commit_the_slow_post()
        while self.broker.late:
            self.broker.deliver_late()
        for relay in self.relays:
            relay.mend()
        for _ in range(ROUNDS_TO_THE_END):
            if self._is_at_rest():
                self.all_is_well()
                return
            if self.stage.owner() not in {relay.owner for relay in self.relays if relay.runs}:
                self.let_the_lease_run_out()
            for which in (0, 1):
                self.go_to(which, "waits")
            if not self.ledger.left_to_send(self.stage.held()):
                self.broker.pass_time(
                    PROGRESS_CHECK_SECONDS[1]
                )  # nothing but an idle shard's look can find what is lost
        raise AssertionError(f"not at rest: {self.stage.held()}, {[r.health.conditions() for r in self.relays]}")

    def _is_at_rest(self) -> bool:
        if self.stage.waits_for_an_operator():
            return True
        held, there = self.stage.held(), delivered(self.broker.committed((TOPIC, 0)))
        return not self.ledger.left_to_send(held) and not self.ledger.lost(held, there)
