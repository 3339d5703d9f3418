"""The product's own ledger and relay, driven by Hypothesis through faults, and held against a plain reference.

What runs is the real code, from the statements to the publisher and the read-back; only the broker
is one in memory (``test_broker_contract`` shows that it does as the real one), and time is paced.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, Engine, text
from structlog.testing import capture_logs

from outbox import store as store_module
from outbox import transactions
from outbox.engine import create_outbox_engine
from outbox.operations import Operations
from outbox.rows import Accepted as Answered
from outbox.rows import FoundRow, KeyReused, NewRow, Order, RowFilter
from outbox.store import Store
from tests.conftest import NewDatabase
from tests.model.assembly import PROGRESS_TOPIC, TOPIC, UNENCODABLE, Clock, Fickle, Relay, clients_in_memory
from tests.model.broker import Broker
from tests.model.clients import Fate
from tests.model.ledger import Accepted, Delivered, Held, Ledger
from tests.model.moments import Moment
from tests.support import new_row

DEEP = bool(os.environ.get("MODEL_DEEP"))
BOUNDED = settings(
    derandomize=not DEEP,
    max_examples=1500 if DEEP else 60,
    stateful_step_count=80 if DEEP else 40,
    deadline=None,
    database=None,
    print_blob=DEEP,
    phases=(Phase.generate, Phase.shrink) if DEEP else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
STEPS_TO_THE_END = 3000
LIMIT_BYTES = 1000
ORDER = Order("ann", "why not", RowFilter())
PLACES = (
    "leased",
    "fenced",
    "read_back",
    "settled",
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
HELD = text("""
    SELECT o.id, o.traceparent, o.interaction_id, o.state, o.replay_of IS NOT NULL AS is_replay,
           EXISTS (SELECT 1 FROM outbox_inference_call AS c WHERE c.row_id = o.id) AS has_call
    FROM outbox AS o ORDER BY o.id
""")
which_relay = st.integers(0, 1)
any_row = st.integers(0, 99)


class Stage:
    """One database, with an engine for each process that uses it, and how it was when it was new."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.engine, *self.relay_engines = (create_outbox_engine(url) for _ in range(3))
        self.clock = clock
        self.new = Moment(self.engine)

    def close(self) -> None:
        """Disconnect."""
        for engine in (self.engine, *self.relay_engines):
            engine.dispose()


class Delivery(RuleBasedStateMachine):
    """One shard, two relays, and everything that may happen to them."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.engine: Engine = stage.engine
        self.store, self.operations = Store(self.engine), Operations(self.engine)
        self.broker = stage.clock.broker = Broker()
        self.fickle = Fickle()
        self.serial = 0
        self.moment: Moment | None = None
        self.slow: tuple[Connection, NewRow, Accepted] | None = None
        self.progress_lost = False
        self.seen: set[int] = set()
        self.relays: list[Relay] = []

    @initialize(waiting=st.booleans(), batch_size=st.integers(1, 3))
    def begin(self, *, waiting: bool, batch_size: int) -> None:
        """A new outbox, new topics, no relay yet."""
        self.stage.new.restore(self.engine)
        self.broker.create(TOPIC)
        self.broker.create(PROGRESS_TOPIC)
        self.broker.limits[TOPIC] = LIMIT_BYTES
        self.ledger = Ledger(waiting)
        self.relays = [
            Relay(engine, self.broker, self.fickle, batch_size, waiting=waiting) for engine in self.stage.relay_engines
        ]
        self.relays[0].start()

    # The webhook -----------------------------------------------------------------------------------

    @rule(interaction=st.sampled_from("XXY"), kind=st.sampled_from(("good", "good", "good", "large", UNENCODABLE)))
    def post(self, interaction: str, kind: str) -> None:
        """An interaction is posted and acknowledged."""
        row = self._new_row(interaction, kind)
        (answer,) = self.store.record([row])
        assert isinstance(answer, Answered)
        assert not answer.duplicate
        self.ledger.accept(self._accepted(answer.outbox_id, row))

    @precondition(lambda self: self.ledger.rows)
    @rule(pick=any_row, other=st.booleans())
    def post_again(self, pick: int, *, other: bool) -> None:
        """A key comes again: with its body it is the same row, with another it is refused."""
        known = list(self.ledger.rows.values())[pick % len(self.ledger.rows)]
        payload = b"{}" if other else known.payload
        row = new_row(known.interaction, key=known.key, payload=payload, traceparent=str(known.serial))
        (answer,) = self.store.record([row])
        expected = Answered(known.outbox_id, known.interaction, duplicate=True)
        assert answer == (KeyReused() if other else expected)

    @precondition(lambda self: self.slow is None and self.engine.dialect.name == "postgresql")
    @rule(interaction=st.sampled_from("XY"))
    def post_slowly(self, interaction: str) -> None:
        """An id is handed out, and its row is not visible yet."""
        row = self._new_row(interaction, "good")
        connection = self.engine.connect()
        connection.begin()
        (answer,) = store_module._record(connection, [row])
        assert isinstance(answer, Answered)
        self.slow = connection, row, self._accepted(answer.outbox_id, row)

    @precondition(lambda self: self.slow is not None)
    @rule()
    def commit_the_slow_post(self) -> None:
        """The row becomes visible, perhaps after those with later ids."""
        assert self.slow is not None
        (connection, _, accepted), self.slow = self.slow, None
        connection.commit()
        connection.close()
        self.ledger.accept(accepted)

    def _new_row(self, interaction: str, kind: str) -> NewRow:
        self.serial += 1
        changes: dict[str, Any] = {"channel": UNENCODABLE} if kind == UNENCODABLE else {}
        if kind == "large":
            changes = {"customer_email": "x" * LIMIT_BYTES}
        return new_row(interaction, key=f"key:{self.serial}", traceparent=str(self.serial), **changes)

    def _accepted(self, outbox_id: int, row: NewRow) -> Accepted:
        refusable = row.channel == UNENCODABLE or len(row.customer_email or "") >= LIMIT_BYTES
        after = self.ledger.acknowledged(row.interaction_id)
        serial = int(row.traceparent or 0)
        return Accepted(
            outbox_id, serial, row.interaction_id, row.key, row.payload, refusable, is_replay=False, after=after
        )

    # The relays ------------------------------------------------------------------------------------

    @rule(which=which_relay, place=st.sampled_from(PLACES))
    def go_to(self, which: int, place: str) -> None:
        """A relay goes on to a place, or comes to rest before it."""
        for _ in range(60):
            if self._advance(which) in {place, "waits", "over"}:
                return

    @rule(which=which_relay, steps=st.integers(1, 40))
    def go_on(self, which: int, steps: int) -> None:
        """A relay takes some steps; the other one stands still meanwhile, perhaps frozen in mid-transaction."""
        for _ in range(steps):
            self._advance(which)

    @rule(which=which_relay)
    def start(self, which: int) -> None:
        """A relay is started where none runs."""
        if not self.relays[which].runs:
            self.relays[which].start()

    @rule(which=which_relay, place=st.sampled_from(PLACES))
    def kill_at(self, which: int, place: str) -> None:
        """Kill -9 at a place."""
        self.go_to(which, place)
        self.relays[which].kill()

    @rule(which=which_relay)
    def ask_to_stop(self, which: int) -> None:
        """SIGTERM."""
        if self.relays[which].runs:
            self.relays[which].stop.set()

    @rule(which=which_relay, place=st.sampled_from(PLACES), steps=st.integers(1, 30))
    def take_over(self, which: int, place: str, steps: int) -> None:
        """A relay is frozen at a place, its lease runs out, and the other one takes the shard."""
        self.go_to(which, place)
        self.let_the_lease_run_out()
        self.start(1 - which)
        self.go_on(1 - which, steps)

    @rule()
    def let_the_lease_run_out(self) -> None:
        """By the database's clock; its holder is not told."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE outbox_shard SET lease_expires_at = 0"))

    def _advance(self, which: int) -> str:
        at = self.relays[which].advance()
        if len(self.broker.committed((TOPIC, 0))) != len(self.seen):
            self.all_is_well()
        return at

    # The broker ------------------------------------------------------------------------------------

    @rule(
        which=which_relay,
        fault=st.sampled_from([(name, fate) for name in ("init", "append", "commit") for fate in Fate])
        | st.sampled_from([(name, Fate.REQUEST_LOST) for name in ("abort", "offsets", "fetch")]),
    )
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
    def change_what_is_refused(self, *, refuses: bool) -> None:
        """The topic's limit is raised or lowered, the encoder repaired or broken."""
        self.fickle.refuses = refuses
        self.broker.limits[TOPIC] = LIMIT_BYTES if refuses else 10 * LIMIT_BYTES

    @precondition(lambda self: not self.progress_lost and not self.ledger.restored)
    @rule()
    def lose_the_progress_topic(self) -> None:
        """Deleted and made anew: what is not marked at this moment may be doubled, nothing else."""
        self.progress_lost = True
        sent = {(row.serial, row.is_replay) for row in self._held() if row.state == "sent"}
        known = [(record.serial, record.is_replay) for record in self._delivered(self.broker.uncommitted((TOPIC, 0)))]
        self.ledger.excused.update(name for name in known if name not in sent)
        self.broker.create(PROGRESS_TOPIC)

    # The database ----------------------------------------------------------------------------------

    @rule(which=which_relay, fate=st.sampled_from((Fate.REQUEST_LOST, Fate.ANSWER_LOST)))
    def cut_the_database(self, which: int, fate: Fate) -> None:
        """A relay's next commit in the database, or the answer to it, will be lost."""
        self.relays[which].database.next = fate

    @precondition(lambda self: self.moment is None)
    @rule()
    def back_up(self) -> None:
        """The database as it is now."""
        self.moment = Moment(self.engine)
        self.ledger.remember()

    @precondition(lambda self: self.moment is not None and not self.ledger.restored and not self.progress_lost)
    @rule()
    def restore(self) -> None:
        """The database goes back in time under whoever uses it, and hands out ids again."""
        assert self.moment is not None
        self._drop_the_slow_post()
        self.moment.restore(self.engine)
        self.ledger.go_back()

    def _drop_the_slow_post(self) -> None:
        if self.slow is not None:
            self.slow[0].close()
            self.slow = None

    # Operators -------------------------------------------------------------------------------------

    @rule(pick=any_row, verb=st.sampled_from(("retry", "discard")))
    def decide_on_a_parked_row(self, pick: int, verb: str) -> None:
        """Exactly the row that was found changes."""
        found = list(self.operations.find(RowFilter(state="parked")))
        if found:
            row = found[pick % len(found)]
            assert getattr(self.operations, verb)([row], ORDER) == [row.id]

    @rule(pick=any_row, plan=st.sampled_from(("p1", "p2")))
    def replay(self, pick: int, plan: str) -> None:
        """A row is sent again as a new row, once by a plan."""
        found: list[FoundRow] = [
            row for state in ("sent", "discarded") for row in self.operations.find(RowFilter(state=state))
        ]
        if not found:
            return
        row = found[pick % len(found)]
        known, key = self.ledger.rows[row.id], f"replay:{plan}:{row.id}"
        once = self.ledger.by_key(key) is None and not known.key.startswith(f"replay:{plan}:")
        assert self.operations.replay(plan, [row], ORDER) == ([row.id] if once else [])
        if once:
            (new,) = [held for held in self._held() if held.id not in self.ledger.rows]
            replayed = Accepted(
                new.id, known.serial, known.interaction, key, known.payload, known.refusable, True, frozenset()
            )
            self.ledger.accept(replayed)

    # What must hold --------------------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        """The database and the topic agree with the reference, and no relay met what nobody expected."""
        if not self.relays:
            return
        delivered = self._delivered(self.broker.committed((TOPIC, 0)))
        new = [record for record in delivered if record.offset not in self.seen]
        self.ledger.check(self._held(), delivered, new)
        self.seen.update(record.offset for record in delivered)
        for relay in self.relays:
            assert "unexpected" not in relay.health.conditions().get("shard 0", "")
        if not self.ledger.restored:
            assert not self._waits_for_an_operator(), "the shard says that the database went back, and it did not"

    def teardown(self) -> None:
        """Nothing goes wrong any more: then every row comes to its end."""
        try:
            if self.relays and sys.exc_info()[0] is None:
                self._come_to_rest()
                self.all_is_well()
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
        for _ in range(STEPS_TO_THE_END):
            if self._is_at_rest():
                return
            if not any(relay.runs for relay in self.relays):
                self.relays[0].start()
            if self._owner() not in {relay.owner for relay in self.relays if relay.runs}:
                self.let_the_lease_run_out()
            for which in (0, 1):
                self._advance(which)
        raise AssertionError(f"not at rest: {self._held()}, {[relay.health.conditions() for relay in self.relays]}")

    def _is_at_rest(self) -> bool:
        return self._waits_for_an_operator() or not self.ledger.left_to_send(self._held())

    def _waits_for_an_operator(self) -> bool:
        (shard,) = self.store.status()
        return shard.condition is not None and "was restored" in shard.condition

    def _owner(self) -> str | None:
        return self.store.status()[0].owner

    def _held(self) -> list[Held]:
        with transactions.read(self.engine) as connection:
            return [
                Held(row.id, int(row.traceparent), row.interaction_id, row.state, bool(row.is_replay), bool(row.has_call))
                for row in connection.execute(HELD)
            ]

    def _delivered(self, records: list[tuple[int, Any]]) -> list[Delivered]:
        told = [(offset, record, dict(record.headers)) for offset, record in records]
        return [
            Delivered(offset, int(h["outbox-id"]), int(h["traceparent"]), record.key.decode(), "replay-of" in h)
            for offset, record, h in told
        ]


@pytest.fixture
def stage(new_database: NewDatabase) -> Iterator[Stage]:
    """A database of either kind, and the relay's modules on the broker in memory."""
    with clients_in_memory() as clock, capture_logs():
        stage = Stage(new_database(), clock)
        yield stage
        stage.close()


def test_exactly_once_through_everything_that_may_happen(stage: Stage) -> None:
    """In any order of posts, relays' steps, faults and operators' decisions, and again when all is quiet."""
    run_state_machine_as_test(lambda: Delivery(stage), settings=BOUNDED)
