"""A broker is restored from an older copy of its disk: the shard notices it, and a reconcile repairs it."""

from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from outbox.errors import LeaseLostError
from outbox.models import RowRef
from outbox.operators.audit import AuditContext
from outbox.operators.prune import old_rows
from outbox.operators.reconcile import SentRow, sent_above
from outbox.operators.rows import RowFilter
from outbox.progress import ProgressVerdict, ShardProgress
from outbox.store import Store
from relay.errors import UnavailableError
from relay.process.lost_rows import ShardLoss, classify_missing, last_kept_sequence, resend_lost_rows
from relay.shard.batch_size import SLOW_SECONDS
from relay.shard.recovery import ShardInspection, inspect_shard
from relay.shard.worker import PROGRESS_CHECK_SECONDS
from testkit.rows import new_rows
from tests.model.broker import Broker
from tests.model.clients import Fault
from tests.model.simulated_relay import PROGRESS_TOPIC, TOPIC, SimulatedRelay

CONTEXT = AuditContext("ann", "an older disk", RowFilter())
STEPS = 300


class Scene:
    """One shard, its relay, and a broker whose disk was copied after the first transaction."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        self.engine, self.broker, self.store = engine, broker, Store(engine)
        self.relay = SimulatedRelay(engine, broker, set(), 2, block_behind_parked=True)
        self.relay.start()
        self.send(2)
        self.copy = broker.copy()

    def send(self, rows: int) -> None:
        """Accept rows, and let the relay send them."""
        self.store.record(new_rows(rows))
        self.run_until(lambda: not self.store.status()[0].pending)

    def run_until(self, done: object) -> None:
        """Let the relay run until a condition holds, or until it stops at a step."""
        for _ in range(STEPS):
            if self.relay.advance() == done or (callable(done) and done()):
                return
        raise AssertionError(f"not reached: {self.relay.health.conditions()}")

    def reports_loss(self) -> bool:
        """Whether the shard reports that Kafka went back in time."""
        return "Kafka went back in time" in (self.store.status()[0].condition or "")

    def restore_broker(self) -> None:
        """Restore the broker from the copy."""
        self.broker.restore(self.copy, forgets_ids=False)

    def sent(self) -> Counter[int]:
        """How often each row is in the topic."""
        return Counter(int(dict(record.headers)["outbox-id"]) for _, record in self.broker.committed((TOPIC, 0)))

    def loss(self) -> ShardLoss:
        """What the topic and the progress records show to be lost."""
        maintenance = self.relay.maintenance(None)
        inspection = inspect_shard(self.store, maintenance.read_back, 0)
        loss = ShardLoss(inspection, last_kept_sequence(inspection, maintenance.read_back))
        rows = {row.id: row for row in sent_above(self.engine, 0, loss.above) if row.id not in self.sent()}
        classify_missing(loss, rows, 0, (TOPIC,))
        return loss

    def reconcile(self, loss: ShardLoss, interrupted: str | None = None) -> None:
        """Send the lost rows again, until the command is interrupted."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE outbox_shard SET lease_expires_at = 0"))
        maintenance = self.relay.maintenance(interrupted)
        try:
            resend_lost_rows(self.engine, maintenance, loss, CONTEXT, "reconcile")
        finally:
            maintenance.give_all_back()


@pytest.fixture
def scene(engine: Engine) -> Iterator[Scene]:
    """A scene; the test runs once for each database."""
    broker = Broker()
    for topic in (TOPIC, PROGRESS_TOPIC):
        broker.create(topic)
    scene = Scene(engine, broker)
    yield scene
    scene.relay.close()


def test_an_idle_shard_checks_its_last_record_about_once_a_minute(scene: Scene) -> None:
    """It sends nothing, so nothing else would show that Kafka went back."""
    scene.send(2)
    scene.restore_broker()
    for _ in range(10):
        scene.run_until("waits")
    assert not scene.reports_loss()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.run_until(scene.reports_loss)


def test_a_check_does_not_disturb_a_shard_that_is_in_order(scene: Scene) -> None:
    """The shard is not taken over again."""
    epoch = scene.store.status()[0].epoch
    for _ in range(3):
        scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
        scene.run_until("fetch sent")
        scene.run_until("waits")
    scene.send(1)
    assert scene.store.status()[0].epoch == epoch


def test_a_running_relay_notices_a_restored_broker_at_its_next_transaction(scene: Scene) -> None:
    """The rows of that transaction are marked, but its sequence is not acknowledged."""
    scene.send(2)
    before = scene.store.read_progress(0)
    scene.restore_broker()
    scene.store.record(new_rows(1))
    scene.run_until(scene.reports_loss)
    assert scene.store.read_progress(0) == before
    assert scene.store.status()[0].pending == 0
    loss = scene.loss()
    assert (loss.above, [ref.id for ref in loss.missing]) == (1, [3, 4])


def test_a_degraded_shard_does_not_warn_at_each_attempt(scene: Scene) -> None:
    """The condition is logged once."""
    scene.send(2)
    scene.restore_broker()
    scene.store.record(new_rows(1))
    scene.run_until(scene.reports_loss)
    epoch = scene.store.status()[0].epoch
    with capture_logs() as logs:
        scene.run_until(lambda: scene.store.status()[0].epoch > epoch + 3)
    assert logs == []


def test_rows_that_kafka_may_have_lost_are_not_pruned(scene: Scene) -> None:
    """Nobody else has them. After the reconcile they are pruned."""
    scene.send(2)
    scene.restore_broker()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.run_until(scene.reports_loss)
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET received_at = received_at - 9000"))
        connection.execute(text("UPDATE outbox_sent SET sent_at = sent_at - 9000"))
        connection.execute(text("UPDATE outbox_inference_call SET state = 'done'"))
    assert [row.id for page in old_rows(scene.engine, 1_000) for row in page] == []
    scene.reconcile(scene.loss())
    assert [row.id for page in old_rows(scene.engine, 1_000) for row in page] == [1, 2]


def test_an_outage_does_not_replace_the_condition_that_kafka_went_back(scene: Scene) -> None:
    """The operator still has to decide, and nothing may be pruned before that."""
    scene.send(2)
    scene.restore_broker()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.run_until(scene.reports_loss)
    scene.relay.link.faults["init"] = Fault.REQUEST_LOST
    scene.run_until(lambda: "did not answer" in scene.relay.health.conditions().get("shard 0", ""))
    scene.run_until("leased")
    assert scene.reports_loss()
    scene.reconcile(scene.loss())
    scene.send(1)
    scene.run_until(lambda: scene.store.status()[0].condition is None)


@pytest.mark.parametrize("interrupted", ["sent_again", "recorded"])
@pytest.mark.parametrize("more", [0, 1], ids=["idle", "sending"])
def test_an_interrupted_reconcile_can_be_repeated(scene: Scene, interrupted: str, more: int) -> None:
    """Until it is done the shard reports the loss; in the end each row is in the topic once, and the shard sends."""
    scene.send(4)
    scene.restore_broker()
    scene.store.record(new_rows(more))
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.run_until(scene.reports_loss)
    with pytest.raises(InterruptedError):
        scene.reconcile(scene.loss(), interrupted)
    assert scene.reports_loss()
    for _ in range(10):
        scene.run_until("waits")
    again = scene.loss()
    assert again.missing == []
    if again.inspection.verdict is ProgressVerdict.KAFKA_WENT_BACK:
        scene.reconcile(again)
    scene.send(2)
    assert set(scene.sent().values()) == {1}
    assert len(scene.sent()) == 8 + more


def test_a_reconcile_marks_what_the_last_record_proves(scene: Scene) -> None:
    """A relay committed after Kafka went back and died before the mark: its rows are not sent twice."""
    scene.send(2)
    scene.restore_broker()
    scene.store.record(new_rows(1))
    scene.run_until("committed")
    scene.relay.kill()
    assert scene.store.status()[0].pending == 1
    scene.reconcile(scene.loss())
    scene.relay.start()
    scene.send(1)
    assert scene.sent() == Counter(dict.fromkeys(range(1, 7), 1))


def test_a_shard_that_sent_rows_since_the_plan_is_left_unchanged(scene: Scene) -> None:
    """They may be the rows that the plan counts as lost."""
    scene.send(2)
    scene.restore_broker()
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.run_until(scene.reports_loss)
    loss = scene.loss()
    scene.reconcile(loss)
    with pytest.raises(UnavailableError, match="sent rows meanwhile"):
        scene.reconcile(loss)


def test_a_relay_without_the_lease_marks_nothing(scene: Scene) -> None:
    """Kafka may have lost its commit meanwhile; the next owner reads back what was committed."""
    scene.store.record(new_rows(2))
    scene.run_until("committed")
    scene.restore_broker()
    other = SimulatedRelay(scene.engine, scene.broker, {scene.relay.owner}, 2, block_behind_parked=True)
    other.start()
    for _ in range(STEPS):
        other.advance()
        scene.relay.advance()
        if not scene.store.status()[0].pending:
            break
    other.close()
    assert scene.sent() == Counter(dict.fromkeys(range(1, 5), 1))


def test_a_row_whose_record_may_have_expired_does_not_count_as_lost() -> None:
    """It is counted as undecided and stays marked sent."""
    loss = ShardLoss(ShardInspection(0, ShardProgress(5, None), None, ProgressVerdict.PROGRESS_LOST), 0)
    classify_missing(loss, {1: SentRow(1, 7, 1_000, None), 2: SentRow(2, 8, 2_000, None)}, 2_000, (TOPIC,))
    assert (loss.missing, loss.undecided) == ([RowRef(2, 8)], 1)


def test_a_row_in_a_topic_that_was_not_read_does_not_count_as_lost(scene: Scene) -> None:
    """A replay to a topic that KAFKA_REPLAY_TOPICS no longer names would be sent twice."""
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET topic = 'models' WHERE id = 1"))
        connection.execute(text("UPDATE outbox SET topic = 'audit' WHERE id = 2"))
    rows = {row.id: row for row in sent_above(scene.engine, 0, 0)}
    loss = ShardLoss(ShardInspection(0, ShardProgress(1, None), None, ProgressVerdict.PROGRESS_LOST), 0)
    classify_missing(loss, rows, 0, (TOPIC, "models"))
    assert (loss.missing, loss.undecided) == ([rows[1].ref], 1)


def test_rows_are_sent_again_only_under_the_lease(scene: Scene) -> None:
    """If another process owns the shard, nothing changes."""
    from outbox.leases import Leases
    from outbox.operators.reconcile import send_again

    (row, *_) = sent_above(scene.engine, 0, 0)
    first = Leases(scene.engine, "a", 0).take(0, scene.relay.owner)
    assert first is not None
    Leases(scene.engine, "b", 10).take(0)
    with pytest.raises(LeaseLostError):
        send_again(scene.engine, first, [row.ref], CONTEXT)
    assert scene.store.status()[0].pending == 0


def test_an_outage_during_the_check_of_an_idle_shard_is_reported(scene: Scene) -> None:
    """The shard is degraded, and recovers."""
    scene.relay.link.faults["offsets"] = Fault.REQUEST_LOST
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.run_until(lambda: "offsets" in (scene.store.status()[0].condition or ""))
    scene.send(1)
    scene.run_until("waits")
    assert not scene.relay.health.conditions()


def test_a_slow_transaction_is_not_reported_for_as_long_as_nothing_is_sent(scene: Scene) -> None:
    """No rows wait any more, and nothing shows that Kafka is still slow."""
    scene.store.record(new_rows(1))
    scene.run_until("append sent")
    scene.broker.pass_time(SLOW_SECONDS + 1)
    scene.run_until(lambda: "slow" in (scene.store.status()[0].condition or ""))
    scene.broker.pass_time(PROGRESS_CHECK_SECONDS[1])
    scene.run_until(lambda: scene.store.status()[0].condition is None)
