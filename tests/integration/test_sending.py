"""From the outbox to the topic, with real services."""

import io
import json
import signal
from importlib.resources import files

import fastavro
import pytest
from confluent_kafka import Producer

from outbox.models import shard_of
from testkit.databases import NewDatabase
from testkit.deployment import Deploy, Deployment, NewDeployment
from testkit.rows import new_row, new_rows
from testkit.services import ExternalService, Kafka
from testkit.topic import assert_exactly_once


def test_every_row_is_in_the_topic_once_and_in_order(deployment: Deployment) -> None:
    """Rows that are committed before and while the relay runs; in order per interaction."""
    ids = deployment.record(new_rows(3000))
    relay = deployment.relay(RELAY_BATCH_SIZE="700")
    ids += deployment.record(new_rows(500))
    deployment.wait_drained()
    assert relay.stop() == 0
    deployment.check_exactly_once(ids)


def test_several_shards_share_the_rows(new_deployment: NewDeployment) -> None:
    """Four shards in one process send every row; all rows of an interaction are in one shard."""
    deployment = new_deployment(shards=4)
    ids = deployment.record(new_rows(2000, interactions=40))
    deployment.relay(RELAY_BATCH_SIZE="200")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    assert len(deployment.query("SELECT DISTINCT shard FROM outbox_rows")) == 4
    assert not deployment.query(
        "SELECT interaction_id FROM outbox_rows GROUP BY interaction_id HAVING count(DISTINCT shard) > 1"
    )


def test_each_shard_writes_to_its_own_partitions(new_deployment: NewDeployment) -> None:
    """If the number of shards divides the number of partitions, a record's shard is its partition modulo the shards."""
    deployment = new_deployment(shards=4)
    deployment.record(new_rows(200, interactions=100))
    deployment.relay()
    deployment.wait_drained()
    found = {(seen.partition % 4, shard_of(seen.key, 4)) for seen in deployment.seen()}
    assert found == {(number, number) for number in range(4)}


def test_a_record_has_the_documented_format(deployment: Deployment) -> None:
    """Key, headers, and a value in Confluent's wire format with the Avro record CXoneInteraction."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    (outbox_id,) = deployment.record([new_row("Grüße-1", traceparent=trace, customer_email=None)])
    deployment.relay()
    deployment.wait_drained()
    (seen,) = deployment.seen()
    assert seen.key == "Grüße-1"
    assert seen.headers["outbox-id"] == str(outbox_id)
    assert seen.headers["traceparent"] == trace
    assert "replay-of" not in seen.headers
    assert seen.headers["received-at"] == str(deployment.query("SELECT received_at FROM outbox")[0][0])
    assert seen.value[0] == 0
    schema = json.loads(files("relay.kafka").joinpath("schemas/interaction.avsc").read_text())
    assert fastavro.schemaless_reader(io.BytesIO(seen.value[5:]), schema, None) == {
        "interactionId": "Grüße-1",
        "channel": "voice",
        "timestamp": 1_700_000_000_000,
        "customerEmail": None,
        "agentId": "agent-7",
    }


def test_sigterm_gives_the_shard_back(deployment: Deployment) -> None:
    """The relay exits with code 0, and nobody has to wait for its lease to expire."""
    deployment.record(new_rows(10))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.signal(signal.SIGTERM)
    assert relay.wait(25) == 0
    assert deployment.query("SELECT owner FROM outbox_shard") == [(None,)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"\x09", "progress record of version"), (b"\x02garbage", "progress record is malformed")],
)
def test_a_progress_record_that_cannot_be_read_is_named(
    new_sqlite: NewDatabase, kafka: Kafka | ExternalService, deploy: Deploy, value: bytes, reason: str
) -> None:
    """The shard waits: what the record stands for is not guessed. Its place is said."""
    deployment = deploy(new_sqlite(), kafka)
    ids = deployment.record(new_rows(10))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.stop()
    producer = Producer(deployment.client_config)
    ((outbox_id,),) = deployment.query("SELECT outbox_id FROM outbox_identity")
    topic = deployment.environ["KAFKA_PROGRESS_TOPIC"]
    producer.produce(topic, value, f"{outbox_id}/0", 0)
    assert producer.flush(10) == 0
    deployment.record(new_rows(1))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", reason)
    assert f"partition 0 of {topic} at offset " in relay.degraded()["shard 0"]
    assert "unexpected" not in relay.log.read_text()
    assert_exactly_once(deployment.seen(), ids)
