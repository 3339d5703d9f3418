"""Rows that Kafka rejects are parked; the rest of their interaction waits, and all other rows are sent."""

import signal

from confluent_kafka.admin import NewTopic

from relay.shard.bisector import MAX_CONSECUTIVE_PARKED
from testkit.command_line import command
from testkit.deployment import Deployment, NewDeployment
from testkit.outbox import assert_placed
from testkit.rows import incompressible, new_row, new_rows
from testkit.topic import alter_topic, assert_exactly_once, create_topics
from testkit.waiting import wait_until


def test_only_the_rejected_row_is_parked(deployment: Deployment) -> None:
    """Of 1,001 rows only the one with too large a record is parked; later rows of its interaction wait."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record(new_rows(500))
    (bad,) = deployment.record([new_row("i-3", **incompressible())])
    after = deployment.record(new_rows(500))
    waiting = {
        row_id for (row_id,) in deployment.query(f"SELECT id FROM outbox WHERE interaction_id = 'i-3' AND id > {bad}")
    }
    deployment.relay(RELAY_BATCH_SIZE="400")
    wait_until(lambda: deployment.pending() == len(waiting), "all rows but those behind the parked row are sent", 120)
    ((parked, error),) = deployment.query("SELECT id, error FROM outbox_rows WHERE state = 'parked'")
    assert parked == bad
    assert "MSG_SIZE_TOO_LARGE" in error
    (status,) = deployment.store.status()
    assert status.parked == 1
    assert status.waiting == len(waiting)
    assert_exactly_once(deployment.seen(), sorted(set(ids + after) - waiting))
    assert_placed(deployment.engine)


def test_with_the_skip_policy_no_row_waits_behind_a_parked_one(deployment: Deployment) -> None:
    """With ``OUTBOX_ON_PARKED=skip`` the later rows of the interaction are sent."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    (bad,) = deployment.record([new_row("i-1", **incompressible())])
    ids = deployment.record([new_row("i-1"), new_row("i-1")])
    deployment.relay(OUTBOX_ON_PARKED="skip")
    wait_until(lambda: not deployment.pending(), "the rows behind are sent")
    assert deployment.query("SELECT id FROM outbox_rows WHERE state = 'parked'") == [(bad,)]
    assert_exactly_once(deployment.seen(), ids)
    assert_placed(deployment.engine)


def test_a_relay_killed_before_it_parks_leaves_the_right_row_to_be_parked(new_deployment: NewDeployment) -> None:
    """When a relay dies during the bisection of a rejected batch, the next one finds and parks the same row."""
    deployment = new_deployment()
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record(new_rows(20, interactions=20))
    (bad,) = deployment.record([new_row("bad", **incompressible())])
    dying = deployment.relay(kill_at="acknowledged", times=3)
    assert dying.wait() == -signal.SIGKILL
    deployment.relay()
    wait_until(lambda: not deployment.pending(), "the good rows are sent", 120)
    assert deployment.query("SELECT id FROM outbox_rows WHERE state = 'parked'") == [(bad,)]
    assert_exactly_once(deployment.seen(), ids)
    assert_placed(deployment.engine)


def test_a_rejected_progress_record_parks_no_row(deployment: Deployment) -> None:
    """A progress topic with too small a limit degrades the shard; with the limit corrected, the shard recovers."""
    config = {"cleanup.policy": "compact", "max.message.bytes": "120"}
    topic = NewTopic(deployment.environ["KAFKA_PROGRESS_TOPIC"], 1, 1, config=config)
    create_topics(deployment.client_config, topic)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "the progress record is refused")
    assert deployment.query("SELECT count(*) FROM outbox_rows WHERE state = 'parked'") == [(0,)]
    alter_topic(deployment.client_config, topic.topic, "max.message.bytes", "1048576")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_when_every_row_is_rejected_only_a_few_are_parked(deployment: Deployment) -> None:
    """When a topic rejects every record, the shard parks three rows, then stops and reports the topic.

    Once the topic is corrected, the other rows are sent; the parked ones once an operator retries them.
    """
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "100"}))
    ids = deployment.record(new_rows(50, interactions=50))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "that is not a fault of rows")
    assert deployment.query("SELECT count(*) FROM outbox_rows WHERE state = 'parked'") == [(MAX_CONSECUTIVE_PARKED,)]
    alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", "1048576")
    wait_until(lambda: not deployment.pending(), "the others are sent")
    retried = command(
        deployment.environ, "retry", "--error", "MSG_SIZE_TOO_LARGE", "--reason", "topic corrected", "--yes"
    )
    assert retried.returncode == 0, retried.stderr
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_consecutive_rejected_rows_are_all_parked_if_another_row_is_accepted(deployment: Deployment) -> None:
    """More rejected rows than make the relay suspect the topic: another row is accepted, so all of them are parked."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    culprits = [new_row(f"bad-{number}", **incompressible()) for number in range(2 * MAX_CONSECUTIVE_PARKED)]
    bad = deployment.record(culprits)
    ids = deployment.record(new_rows(20, interactions=20))
    deployment.relay()
    wait_until(lambda: not deployment.pending(), "the good rows are sent and the bad ones parked", 120)
    assert deployment.query("SELECT id FROM outbox_rows WHERE state = 'parked' ORDER BY id") == [
        (row_id,) for row_id in bad
    ]
    assert_exactly_once(deployment.seen(), ids)
    assert_placed(deployment.engine)
