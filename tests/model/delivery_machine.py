"""The rules of the state machine: what may happen to one outbox, its two relays, and the broker."""

import sys

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from outbox.models import RowRef, replay_key
from outbox.operators.audit import AuditContext
from outbox.operators.rows import RowFilter
from relay.process.lost_rows import ShardLoss, resend_lost_rows
from relay.shard.recovery import inspect_shard
from relay.shard.worker import PROGRESS_CHECK_SECONDS
from testkit.outbox import assert_placed
from tests.model.broker import DiskCopy
from tests.model.clients import Fault
from tests.model.environment import DATABASE, KAFKA, LIMIT_BYTES, Environment, delivered_records
from tests.model.posting_rules import PostingRules, any_row, posts
from tests.model.reference import Reference, StoredRow
from tests.model.simulated_relay import PROGRESS_TOPIC, TOPIC, SimulatedRelay
from tests.model.snapshot import DatabaseSnapshot

MAX_ROUNDS = 3000
MAX_STEPS = 60
CONTEXT = AuditContext("ann", "why not", RowFilter())
STEPS = (
    "leased",
    "fenced",
    "read_back",
    "acknowledged",
    "selected",
    "encoded",
    "append answered",
    "commit sent",
    "commit answered",
    "committed",
    "marked",
    "parked",
    "waits",
)
one_of_two = st.integers(0, 1)
a_step = st.sampled_from(STEPS)
some_steps = st.integers(1, 40)
steps_or_none = st.just(0) | some_steps
faults = st.sampled_from([(name, fault) for name in ("init", "append", "commit") for fault in Fault]) | st.sampled_from(
    [(name, Fault.REQUEST_LOST) for name in ("abort", "offsets", "fetch")]
)


class DeliveryMachine(PostingRules):
    """One shard, two relays, and every fault that may happen to them."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.snapshot: DatabaseSnapshot | None = None
        self.progress_lost = False
        self.copy: DiskCopy | None = None
        self.seen: set[int] = set()
        self.relays: list[SimulatedRelay] = []

    @initialize(posted=posts, block_behind_parked=st.booleans(), batch_size=st.integers(1, 3))
    def begin(self, posted: list[tuple[str, str]], *, block_behind_parked: bool, batch_size: int) -> None:
        """Start with a new outbox with some rows, empty topics, and no relay."""
        self.environment.reset()
        self.broker.create(TOPIC)
        self.broker.create(PROGRESS_TOPIC)
        self.broker.limits[TOPIC] = LIMIT_BYTES
        self.reference = Reference(block_behind_parked)
        dead: set[str] = set()
        self.relays = [
            SimulatedRelay(engine, self.broker, dead, batch_size, block_behind_parked=block_behind_parked)
            for engine in self.environment.relay_engines
        ]
        self.post(posted)

    # The relays ------------------------------------------------------------------------------------

    @rule(which=one_of_two, step=a_step)
    def advance_to(self, which: int, step: str) -> None:
        """Let a relay run to a step, or until it is idle."""
        for _ in range(MAX_STEPS):
            if self._advance(which) in {step, "waits", "ended"}:
                return

    @rule(which=one_of_two, steps=some_steps)
    def advance_by(self, which: int, steps: int) -> None:
        """Let a relay take some steps while the other one is frozen wherever it stopped."""
        for _ in range(steps):
            self._advance(which)

    @rule(which=one_of_two, step=a_step)
    def kill_at(self, which: int, step: str) -> None:
        """Kill a relay at a step. The other one is on the same host, so it need not wait for the lease to expire."""
        self.advance_to(which, step)
        self.relays[which].kill()

    @rule(which=one_of_two)
    def ask_to_stop(self, which: int) -> None:
        """Ask a relay to stop, as SIGTERM does."""
        if self.relays[which].runs:
            self.relays[which].stop.set()

    @rule(which=one_of_two, step=a_step, other_step=a_step, steps=some_steps)
    def freeze(self, which: int, step: str, other_step: str, steps: int) -> None:
        """Freeze a relay past its lease, let the other one take the shard over, and let the first continue."""
        self.advance_to(which, step)
        self.expire_lease()
        self.advance_by(1 - which, 10)
        self.advance_to(1 - which, other_step)
        self.advance_by(which, steps)

    @rule()
    def expire_lease(self) -> None:
        """Let the lease expire; its owner does not notice."""
        self.environment.expire_lease()

    @rule(which=one_of_two, refuses=st.booleans())
    def change_encoder(self, which: int, *, refuses: bool) -> None:
        """Change which rows an encoder refuses: two relays may run different versions."""
        self.relays[which].encoder.refuses = refuses

    def _advance(self, which: int) -> str:
        """Take one step; a relay that is dead is started again."""
        if not self.relays[which].runs:
            self.relays[which].start()
        stopped_at = self.relays[which].advance()
        if len(self.broker.committed((TOPIC, 0))) != len(self.seen):
            self.invariants_hold()
        return stopped_at

    # The broker ------------------------------------------------------------------------------------

    @rule(which=one_of_two, fault=faults)
    def break_link(self, which: int, fault: tuple[str, Fault]) -> None:
        """Lose a request to the broker or its answer, or delay the request."""
        if self.relays[which].runs:
            self.relays[which].link.faults.update([fault])

    @precondition(lambda self: self.broker.in_flight)
    @rule()
    def deliver_in_flight(self) -> None:
        """Deliver a delayed request."""
        self.broker.deliver_in_flight()

    @rule(idle=st.booleans())
    def pass_broker_time(self, *, idle: bool) -> None:
        """Let open transactions time out, or idle transactional ids expire."""
        if idle:
            self.broker.expire_idle_ids()
        else:
            self.broker.time_out_transactions()

    @rule(refuses=st.booleans())
    def change_topic_limit(self, *, refuses: bool) -> None:
        """Raise or lower the topic's record size limit."""
        self.broker.limits[TOPIC] = LIMIT_BYTES if refuses else 10 * LIMIT_BYTES

    @precondition(lambda self: not self._lost_before())
    @rule()
    def lose_progress_topic(self) -> None:
        """Delete and recreate the progress topic: only rows that are not marked now may be sent twice."""
        self.progress_lost = True
        sent = {(row.serial, row.is_replay) for row in self.environment.rows() if row.state == "sent"}
        names = [(r.serial, r.is_replay) for r in delivered_records(self.broker.not_aborted((TOPIC, 0)))]
        self.reference.may_repeat.update(name for name in names if name not in sent)
        self.broker.create(PROGRESS_TOPIC)

    @precondition(lambda self: not self._lost_before() and self.copy is None)
    @rule()
    def copy_broker_disk(self) -> None:
        """Copy the disk, unless it has no progress record: then the loss would look like that of the topic."""
        if self.broker.committed((PROGRESS_TOPIC, 0)):
            self.copy = self.broker.copy()

    @precondition(lambda self: not self._lost_before())
    @rule(
        first=posts, then=posts, after=posts, which=one_of_two, step=a_step, other_step=a_step,
        forgets_ids=st.booleans(), idle=st.booleans(),
    )  # fmt: skip
    def restore_broker(
        self,
        first: list[tuple[str, str]],
        then: list[tuple[str, str]],
        after: list[tuple[str, str]],
        which: int,
        step: str,
        other_step: str,
        *,
        forgets_ids: bool,
        idle: bool,
    ) -> None:
        """Restore the broker from an older copy of its disk, once, after more rows were sent.

        Then rows may be posted or not, and an operator may reconcile the shard and be interrupted.
        """
        if self.copy is None:
            self.post(first)
            self.advance_to(which, "waits")
            self.copy_broker_disk()
        self.post(then)
        self.advance_to(which, step)
        if self.copy is None:
            return
        self.broker.restore(self.copy, forgets_ids=forgets_ids)
        self.reference.broker_back = True
        self.seen &= {record.offset for record in delivered_records(self.broker.committed((TOPIC, 0)))}
        if not idle:
            self.post(after)
        self.advance_to(which, other_step)

    def _lost_before(self) -> bool:
        return self.reference.broker_back or self.progress_lost or self.reference.restored

    @precondition(lambda self: self.reference.broker_back or self.progress_lost)
    @rule(interrupted=st.sampled_from((None, "sent_again", "recorded")))
    def reconcile(self, interrupted: str | None) -> None:
        """Reconcile the shard, if Kafka went back: the rows that the topic lacks are sent again."""
        if self.environment.went_back() != KAFKA:
            return
        self.expire_lease()
        relay = SimulatedRelay(
            self.engine, self.broker, set(), 1, block_behind_parked=self.reference.block_behind_parked
        )
        maintenance = relay.maintenance(interrupted)
        missing = [RowRef(row.id, row.nonce) for row in self._lost()]
        loss = ShardLoss(inspect_shard(self.store, maintenance.read_back, 0), 0, missing=missing)
        try:
            resend_lost_rows(self.engine, maintenance, loss, CONTEXT, "reconcile")
        except InterruptedError:
            assert self.environment.went_back() == KAFKA
        else:
            assert not self._lost()
        finally:
            maintenance.give_all_back()
            relay.close()

    def _lost(self) -> list[StoredRow]:
        return self.reference.lost(self.environment.rows(), delivered_records(self.broker.committed((TOPIC, 0))))

    # The database ----------------------------------------------------------------------------------

    @rule(which=one_of_two, fault=st.sampled_from((Fault.REQUEST_LOST, Fault.ANSWER_LOST)))
    def break_database(self, which: int, fault: Fault) -> None:
        """Lose a relay's next commit in the database, or the answer to it."""
        self.relays[which].database.next = fault

    @precondition(lambda self: self.snapshot is None)
    @rule()
    def back_up(self) -> None:
        """Back the database up."""
        self.snapshot = DatabaseSnapshot(self.engine)
        self.reference.back_up()

    @precondition(lambda self: not self._lost_before())
    @rule(
        first=posts, then=posts, after=posts, which=one_of_two, steps=steps_or_none, step=a_step, repair=st.booleans()
    )
    def restore_database(
        self,
        first: list[tuple[str, str]],
        then: list[tuple[str, str]],
        after: list[tuple[str, str]],
        which: int,
        steps: int,
        step: str,
        *,
        repair: bool,
    ) -> None:
        """Restore the database from a backup while it is in use, once, after rows were sent. It reuses ids then."""
        if self.snapshot is None:
            self.post(first)
            self.advance_to(which, "waits")
            self.post(first)
            self.back_up()
        if repair:
            self._repair()
        self.post(then)
        self.advance_by(which, steps)
        self.advance_to(which, step)
        self._drop_slow_post()
        assert self.snapshot is not None
        self.snapshot.restore(self.engine)
        self.reference.restore()
        self.post(after)

    # Operators -------------------------------------------------------------------------------------

    @rule(pick=any_row, verb=st.sampled_from(("retry", "discard")))
    def retry_or_discard(self, pick: int, verb: str) -> None:
        """Retry or discard a parked row: exactly that row changes."""
        found = list(self.operations.find(RowFilter(state="parked")))
        if found:
            row = found[pick % len(found)]
            assert getattr(self.operations, verb)([row.planned], CONTEXT) == [row.id]

    @rule(pick=any_row, plan=st.sampled_from(("p1", "p2")))
    def replay(self, pick: int, plan: str) -> None:
        """Replay a row as a new row, once by each plan."""
        found = [row for state in ("sent", "discarded") for row in self.operations.find(RowFilter(state=state))]
        if not found:
            return
        row = found[pick % len(found)]
        known, key = self.reference.rows[row.id], replay_key(plan, row.id)
        once = self.reference.by_key(key) is None and known.plan != plan
        assert self.operations.replay(plan, [row.planned], CONTEXT) == ([row.id] if once else [])
        if once:
            (new,) = [row for row in self.environment.rows() if row.id not in self.reference.rows]
            self.reference.accept(known.replayed(new.id, key, plan))

    def _repair(self) -> None:
        """Let topic and encoders accept every row, and retry the parked rows."""
        self.change_topic_limit(refuses=False)
        for which in (0, 1):
            self.change_encoder(which, refuses=False)
        self.operations.retry([row.planned for row in self.operations.find(RowFilter(state="parked"))], CONTEXT)

    # What must hold --------------------------------------------------------------------------------

    @invariant()
    def invariants_hold(self) -> None:
        """Database and topic agree with the reference, and no relay had an unexpected error."""
        if not self.relays:
            return
        assert_placed(self.engine)
        records = delivered_records(self.broker.committed((TOPIC, 0)))
        self.reference.check(
            self.environment.rows(), records, [record for record in records if record.offset not in self.seen]
        )
        self.seen.update(record.offset for record in records)
        for relay in self.relays:
            assert "unexpected" not in relay.health.conditions().get("shard 0", "")
        reported = self.environment.went_back()
        kafka = self.reference.broker_back or self.progress_lost  # the offsets of a new topic begin at 0 again
        went_back = {None, DATABASE if self.reference.restored else None, KAFKA if kafka else None}
        assert reported in went_back, f"the shard reports that the {reported} went back in time, but it did not"

    def teardown(self) -> None:
        """Without faults, every row reaches its final state, also those that were parked."""
        try:
            if self.relays and sys.exc_info()[0] is None:
                self._run_to_rest()
                self.reconcile(None)
                self._run_to_rest()
                self._repair()
                self._run_to_rest()
                assert self.environment.went_back() != KAFKA
        finally:
            self._drop_slow_post()
            for relay in self.relays:
                relay.close()

    def _run_to_rest(self) -> None:
        if self.slow is not None:
            self.commit_slow_post()
        while self.broker.in_flight:
            self.broker.deliver_in_flight()
        for relay in self.relays:
            relay.clear_faults()
        for _ in range(MAX_ROUNDS):
            if self._is_at_rest():
                self.invariants_hold()
                return
            if self.environment.owner() not in {relay.owner for relay in self.relays if relay.runs}:
                self.expire_lease()
            for which in (0, 1):
                self.advance_to(which, "waits")
            if not self.reference.sendable(self.environment.rows()):
                # Only the check of an idle shard can find what is lost.
                self.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
        raise AssertionError(f"not at rest: {self.environment.rows()}, {[r.health.conditions() for r in self.relays]}")

    def _is_at_rest(self) -> bool:
        if self.environment.went_back() or self._blames_the_topic():
            return True
        return not self.reference.sendable(self.environment.rows()) and not self._lost()

    def _blames_the_topic(self) -> bool:
        """Whether a relay parks no more rows, because the topic refused too many in a row."""
        if self.broker.limits[TOPIC] != LIMIT_BYTES:
            return False
        return any("not a fault of rows" in relay.health.conditions().get("shard 0", "") for relay in self.relays)
