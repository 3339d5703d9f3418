"""A broker in memory comes back from an older copy: the shard finds out, and a reconcile leads on, once."""

from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from outbox.errors import LeaseLostError
from outbox.models import AuditContext, RowFilter, RowRef
from outbox.operators.prune import Pruning
from outbox.operators.reconcile import SentRow, sent_above
from outbox.store import Store
from outbox.verdicts import ShardRecord, Verdict
from relay.errors import UnavailableError
from relay.process.lost_rows import ShardLoss, classify_missing, last_kept_sequence, resend_lost_rows
from relay.shard.batch_size import SLOW_SECONDS
from relay.shard.recovery import ShardInspection, inspect_shard
from relay.shard.worker import PROGRESS_CHECK_SECONDS
from testkit.rows import new_rows
from tests.model.assembly import PROGRESS_TOPIC, TOPIC, Relay, clients_in_memory
from tests.model.broker import Broker
from tests.model.clients import Fate

ORDER = AuditContext("ann", "an older disk", RowFilter())
STEPS = 300


class Scene:
    """One shard, its relay, and a broker whose disk is copied after the first of its transactions."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        self.engine, self.broker, self.store = engine, broker, Store(engine)
        self.relay = Relay(engine, broker, set(), 2, waiting=True)
        self.relay.start()
        self.send(2)
        self.copy = broker.copy()

    def send(self, rows: int) -> None:
        """Accept so many rows, and let the relay send them."""
        self.store.record(new_rows(rows))
        self.go_on_until(lambda: not self.store.status()[0].pending)

    def go_on_until(self, done: object) -> None:
        """Let the relay take steps until a condition holds, or until it stands at a place."""
        for _ in range(STEPS):
            if self.relay.advance() == done or (callable(done) and done()):
                return
        raise AssertionError(f"not reached: {self.relay.health.conditions()}")

    def waits(self) -> bool:
        """Whether the shard says that Kafka went back."""
        return "Kafka went back in time" in (self.store.status()[0].condition or "")

    def go_back(self) -> None:
        """The broker comes back with the copy."""
        self.broker.go_back(self.copy, forgets_ids=False)

    def sent(self) -> Counter[int]:
        """How often each row is in the topic."""
        return Counter(int(dict(record.headers)["outbox-id"]) for _, record in self.broker.committed((TOPIC, 0)))

    def loss(self) -> ShardLoss:
        """What a reader of the topic and the progress records finds."""
        held = self.relay.look_after(None)
        seen = inspect_shard(self.store, held.read_back, 0)
        loss = ShardLoss(seen, last_kept_sequence(seen, held.read_back))
        rows = {row.id: row for row in sent_above(self.engine, 0, loss.above) if row.id not in self.sent()}
        classify_missing(loss, rows, 0, (TOPIC,))
        return loss

    def reconcile(self, loss: ShardLoss, interrupted: str | None = None) -> None:
        """Do what a loss asks for, until it is interrupted."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE outbox_shard SET lease_expires_at = 0"))
        held = self.relay.look_after(interrupted)
        try:
            resend_lost_rows(self.engine, held, loss, ORDER, "reconcile")
        finally:
            held.give_all_back()


@pytest.fixture
def scene(engine: Engine) -> Iterator[Scene]:
    """The test runs once for each database."""
    with clients_in_memory() as clock:
        for topic in (TOPIC, PROGRESS_TOPIC):
            clock.broker.create(topic)
        scene = Scene(engine, clock.broker)
        yield scene
        scene.relay.close()


def test_an_idle_shard_looks_at_the_last_record_about_once_a_minute(scene: Scene) -> None:
    """Nothing is sent and nothing fails, so nothing else would show it."""
    scene.send(2)
    scene.go_back()
    for _ in range(10):
        scene.go_on_until("waits")
    assert not scene.waits()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.go_on_until(scene.waits)


def test_a_shard_that_is_in_order_goes_on_after_a_look(scene: Scene) -> None:
    """The record is the settled one: the shard is not taken anew."""
    epoch = scene.store.status()[0].epoch
    for _ in range(3):
        scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
        scene.go_on_until("fetch asked")
        scene.go_on_until("waits")
    scene.send(1)
    assert scene.store.status()[0].epoch == epoch


def test_the_next_transaction_of_a_running_relay_stands_no_further_on(scene: Scene) -> None:
    """Its own rows are in Kafka and marked; the shard waits at once, and nothing is settled by it."""
    scene.send(2)
    before = scene.store.progress_of(0)
    scene.go_back()
    scene.store.record(new_rows(1))
    scene.go_on_until(scene.waits)
    assert scene.store.progress_of(0) == before
    assert scene.store.status()[0].pending == 0
    loss = scene.loss()
    assert (loss.above, [ref.id for ref in loss.missing]) == (1, [3, 4])


def test_a_shard_that_waits_does_not_warn_at_each_attempt(scene: Scene) -> None:
    """What its last record proves is marked at once; that there is nothing left to mark is no news."""
    scene.send(2)
    scene.go_back()
    scene.store.record(new_rows(1))
    scene.go_on_until(scene.waits)
    epoch = scene.store.status()[0].epoch
    with capture_logs() as logs:
        scene.go_on_until(lambda: scene.store.status()[0].epoch > epoch + 3)
    assert logs == []


def test_rows_that_kafka_may_have_lost_are_not_pruned_while_their_shard_waits(scene: Scene) -> None:
    """They exist nowhere else; once the operator has decided, retention goes on."""
    scene.send(2)
    scene.go_back()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.go_on_until(scene.waits)
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET received_at = received_at - 9000, sent_at = sent_at - 9000"))
        connection.execute(text("UPDATE outbox_inference_call SET state = 'done'"))
    pruning = Pruning(scene.engine)
    assert [row.id for page in pruning.old_rows(1_000) for row in page] == []
    scene.reconcile(scene.loss())
    assert [row.id for page in pruning.old_rows(1_000) for row in page] == [1, 2]


def test_an_outage_meanwhile_does_not_hide_that_kafka_went_back(scene: Scene) -> None:
    """The operator still has to decide, and nothing is pruned before that: the condition stays."""
    scene.send(2)
    scene.go_back()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.go_on_until(scene.waits)
    scene.relay.link.faults["init"] = Fate.REQUEST_LOST
    scene.go_on_until(lambda: "did not answer" in scene.relay.health.conditions().get("shard 0", ""))
    scene.go_on_until("leased")
    assert scene.waits()
    scene.reconcile(scene.loss())
    scene.send(1)
    scene.go_on_until(lambda: scene.store.status()[0].condition is None)


@pytest.mark.parametrize("interrupted", ["sent_again", "recorded"])
@pytest.mark.parametrize("more", [0, 1], ids=["idle", "sending"])
def test_a_reconcile_that_was_interrupted_is_made_again(scene: Scene, interrupted: str, more: int) -> None:
    """Wherever it ended; in the end each row is in the topic once, and the shard sends on."""
    scene.send(4)
    scene.go_back()
    scene.store.record(new_rows(more))
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.go_on_until(scene.waits)
    with pytest.raises(InterruptedError):
        scene.reconcile(scene.loss(), interrupted)
    for _ in range(10):
        scene.go_on_until("waits")
    again = scene.loss()
    assert again.missing == []
    if again.inspection.verdict is Verdict.KAFKA_WENT_BACK:
        scene.reconcile(again)
    scene.send(2)
    assert set(scene.sent().values()) == {1}
    assert len(scene.sent()) == 8 + more


def test_a_reconcile_marks_what_the_last_record_proves(scene: Scene) -> None:
    """A relay has committed on after Kafka went back, and died before it could mark: its rows are not sent twice."""
    scene.send(2)
    scene.go_back()
    scene.store.record(new_rows(1))
    scene.go_on_until("committed")
    scene.relay.kill()
    assert scene.store.status()[0].pending == 1
    scene.reconcile(scene.loss())
    scene.relay.start()
    scene.send(1)
    assert scene.sent() == Counter(dict.fromkeys(range(1, 7), 1))


def test_a_shard_whose_last_record_is_another_one_than_planned_is_left_as_it_is(scene: Scene) -> None:
    """What was sent since may be what the plan takes for lost."""
    scene.send(2)
    scene.go_back()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.go_on_until(scene.waits)
    loss = scene.loss()
    scene.reconcile(loss)
    with pytest.raises(UnavailableError, match="sent rows meanwhile"):
        scene.reconcile(loss)


def test_a_commit_that_is_marked_too_late_is_read_back_by_whoever_has_the_shard(scene: Scene) -> None:
    """The mark of an owner without a lease would take for sent what Kafka has lost meanwhile."""
    scene.store.record(new_rows(2))
    scene.go_on_until("committed")
    scene.go_back()
    other = Relay(scene.engine, scene.broker, {scene.relay.owner}, 2, waiting=True)
    other.start()
    for _ in range(STEPS):
        other.advance()
        scene.relay.advance()
        if not scene.store.status()[0].pending:
            break
    other.close()
    assert scene.sent() == Counter(dict.fromkeys(range(1, 5), 1))


def test_where_the_topic_was_cut_nothing_is_taken_for_lost() -> None:
    """A row that was not found may have been removed by retention: it is counted, and stays as it is."""
    loss = ShardLoss(ShardInspection(0, ShardRecord(5, None), None, Verdict.PROGRESS_LOST), 0)
    classify_missing(loss, {1: SentRow(1, 7, 1_000, None), 2: SentRow(2, 8, 2_000, None)}, 2_000, (TOPIC,))
    assert (loss.missing, loss.undecided) == ([RowRef(2, 8)], 1)


def test_a_row_that_went_to_a_topic_that_is_not_read_is_not_taken_for_lost(scene: Scene) -> None:
    """A replay into a topic that KAFKA_REPLAY_TOPICS names no more: it would be there twice."""
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET topic = 'models' WHERE id = 1"))
        connection.execute(text("UPDATE outbox SET topic = 'audit' WHERE id = 2"))
    rows = {row.id: row for row in sent_above(scene.engine, 0, 0)}
    loss = ShardLoss(ShardInspection(0, ShardRecord(1, None), None, Verdict.PROGRESS_LOST), 0)
    classify_missing(loss, rows, 0, (TOPIC, "models"))
    assert (loss.missing, loss.undecided) == ([rows[1].ref], 1)


def test_rows_are_sent_again_under_the_lease_only(scene: Scene) -> None:
    """Another one holds the shard: nothing has changed."""
    from outbox.leases import Leases
    from outbox.operators.reconcile import send_again

    (row, *_) = sent_above(scene.engine, 0, 0)
    first = Leases(scene.engine, "a", 0).take(0, scene.relay.owner)
    assert first is not None
    Leases(scene.engine, "b", 10).take(0)
    with pytest.raises(LeaseLostError):
        send_again(scene.engine, first, [row.ref], ORDER)
    assert scene.store.status()[0].pending == 0


def test_a_link_that_fails_while_an_idle_shard_looks_is_an_outage_like_any_other(scene: Scene) -> None:
    """The shard says so, and is taken anew."""
    scene.relay.link.faults["offsets"] = Fate.REQUEST_LOST
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.go_on_until(lambda: "offsets" in (scene.store.status()[0].condition or ""))
    scene.send(1)
    scene.go_on_until("waits")
    assert not scene.relay.health.conditions()


def test_a_way_that_was_slow_once_is_not_called_slow_for_as_long_as_nothing_is_sent(scene: Scene) -> None:
    """No rows wait for it any more, and nothing shows that it is slow still."""
    scene.store.record(new_rows(1))
    scene.go_on_until("append asked")
    scene.broker.pass_time(SLOW_SECONDS + 1)
    scene.go_on_until(lambda: "slow" in (scene.store.status()[0].condition or ""))
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.go_on_until(lambda: scene.store.status()[0].condition is None)
