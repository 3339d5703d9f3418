"""Rows that Kafka refuses: parked alone and in sight, their interaction waiting behind them, the rest sent."""

from confluent_kafka.admin import NewTopic

from relay.shard.batch_size import MOST_PARKED
from testkit.command_line import command
from testkit.deployment import Deployment, NewDeployment
from testkit.rows import culprit, new_row, new_rows
from testkit.topic import alter_topic, assert_exactly_once, create_topics
from testkit.waiting import wait_until


def test_only_the_row_that_the_broker_refuses_is_parked(deployment: Deployment) -> None:
    """One too-large record amid 1,000 good ones: it alone is parked, its interaction waits, the others are sent."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record(new_rows(500))
    (bad,) = deployment.record([new_row("i-3", **culprit())])
    after = deployment.record(new_rows(500))
    behind = {
        row_id for (row_id,) in deployment.query(f"SELECT id FROM outbox WHERE interaction_id = 'i-3' AND id > {bad}")
    }
    deployment.relay(RELAY_BATCH_SIZE="400")
    wait_until(lambda: deployment.pending() == len(behind), "all but those behind the parked row are sent", 120)
    ((parked, error),) = deployment.query("SELECT id, error FROM outbox WHERE state = 'parked'")
    assert parked == bad
    assert "MSG_SIZE_TOO_LARGE" in error
    (status,) = deployment.store.status()
    assert (status.parked, status.waiting) == (1, len(behind))
    assert_exactly_once(deployment.seen(), sorted(set(ids + after) - behind))


def test_with_the_pass_policy_nothing_waits(deployment: Deployment) -> None:
    """OUTBOX_ON_PARKED=skip sends the rows behind a parked one."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    (bad,) = deployment.record([new_row("i-1", **culprit())])
    ids = deployment.record([new_row("i-1"), new_row("i-1")])
    deployment.relay(OUTBOX_ON_PARKED="skip")
    wait_until(lambda: not deployment.pending(), "the rows behind are sent")
    assert deployment.query("SELECT id FROM outbox WHERE state = 'parked'") == [(bad,)]
    assert_exactly_once(deployment.seen(), ids)


def test_a_kill_on_the_way_to_parking_parks_the_same_row(new_deployment: NewDeployment) -> None:
    """A relay that dies before it parks leaves nothing behind: the next one finds the culprit again."""
    deployment = new_deployment()
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record(new_rows(20, interactions=20))
    (bad,) = deployment.record([new_row("bad", **culprit())])
    dying = deployment.relay(kill_at="settled", times=3)
    dying.wait()
    deployment.relay()
    wait_until(lambda: not deployment.pending(), "the good rows are sent", 120)
    assert deployment.query("SELECT id FROM outbox WHERE state = 'parked'") == [(bad,)]
    assert_exactly_once(deployment.seen(), ids)


def test_a_refused_progress_record_parks_nobody(deployment: Deployment) -> None:
    """A progress topic that takes only tiny records is a wrong setting: the shard waits and names it, then goes on."""
    config = {"cleanup.policy": "compact", "max.message.bytes": "120"}
    topic = NewTopic(deployment.environ["KAFKA_PROGRESS_TOPIC"], 1, 1, config=config)
    create_topics(deployment.client_config, topic)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "the progress record is refused")
    assert deployment.query("SELECT count(*) FROM outbox WHERE state = 'parked'") == [(0,)]
    alter_topic(deployment.client_config, topic.topic, "max.message.bytes", "1048576")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_when_every_row_is_refused_few_are_parked(deployment: Deployment) -> None:
    """A topic that takes nothing is no fault of rows: after three in vain the shard waits, and says so.

    With the topic put right the others are sent, and the three as soon as an operator retries them.
    """
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "100"}))
    ids = deployment.record(new_rows(50, interactions=50))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "that is not a fault of rows")
    assert deployment.query("SELECT count(*) FROM outbox WHERE state = 'parked'") == [(MOST_PARKED,)]
    alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", "1048576")
    wait_until(lambda: not deployment.pending(), "the others are sent")
    retried = command(
        deployment.environ, "retry", "--error", "MSG_SIZE_TOO_LARGE", "--reason", "topic put right", "--yes"
    )
    assert retried.returncode == 0, retried.stderr
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_many_refused_rows_in_a_row_are_parked_while_others_pass(deployment: Deployment) -> None:
    """More of them than make the relay doubt: another row is tried, passes, and so each of them is at fault."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    culprits = [new_row(f"bad-{number}", **culprit()) for number in range(2 * MOST_PARKED)]
    bad = deployment.record(culprits)
    ids = deployment.record(new_rows(20, interactions=20))
    deployment.relay()
    wait_until(lambda: not deployment.pending(), "the good rows are sent and the bad ones parked", 120)
    assert deployment.query("SELECT id FROM outbox WHERE state = 'parked' ORDER BY id") == [(row_id,) for row_id in bad]
    assert_exactly_once(deployment.seen(), ids)
