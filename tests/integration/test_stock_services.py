"""The product on services as they come: a broker with its shipped settings, a registry with its defaults."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from testkit.command_line import command
from testkit.deployment import Deployment, NewDeployment
from testkit.rows import new_rows
from testkit.services import StockKafka, StockRegistry
from testkit.topic import alter_topic, create_topics
from testkit.waiting import wait_until

SHARDS = 3


@pytest.fixture
def new_stock_world(
    new_database: Callable[..., str],
    stock_kafka: StockKafka,
    stock_registry: StockRegistry,
    tmp_path: Path,
    deployments: list[Deployment],
) -> NewDeployment:
    """Makes a world on stock services; the test runs once for each kind of database."""

    def make(shards: int = SHARDS) -> Deployment:
        name = uuid.uuid4().hex[:8]
        url = new_database(shards)
        settings = {
            "DATABASE_URL": url,
            "KAFKA_BOOTSTRAP_SERVERS": stock_kafka.bootstrap_servers,
            "KAFKA_TOPIC": f"interactions-{name}",
            "KAFKA_PROGRESS_TOPIC": f"interactions-{name}-progress",
            "KAFKA_TRANSACTIONAL_ID_PREFIX": f"relay-{name}-",
            "SCHEMA_REGISTRY_URL": stock_registry.url,
        }
        deployments.append(Deployment(url, settings, stock_kafka.client_config, tmp_path))
        return deployments[-1]

    return make


@pytest.fixture
def stock_world(new_stock_world: NewDeployment) -> Deployment:
    """A world with several shards."""
    return new_stock_world()


def topics(deployment: Deployment) -> dict[str, int]:
    """The world's topics that the broker has, and how many partitions each has. Looking creates none."""
    found = AdminClient(deployment.client_config).list_topics(timeout=10).topics
    names = (deployment.topic, deployment.environ["KAFKA_PROGRESS_TOPIC"])
    return {name: len(found[name].partitions) for name in names if name in found}


def policy(deployment: Deployment, name: str) -> str:
    """``cleanup.policy`` of a topic."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    admin = AdminClient(deployment.client_config)  # named, because its end would cancel what it was asked
    (future,) = admin.describe_configs([resource]).values()
    return str(future.result(10)["cleanup.policy"].value)


def test_a_first_start_a_kill_a_restart_and_a_check(stock_world: Deployment) -> None:
    """Topics are made as documented whatever the broker's defaults are, every row arrives once, and check passes."""
    deployment, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    ids = deployment.record(new_rows(1000))
    relay = deployment.relay()
    wait_until(lambda: deployment.pending() < len(ids), "rows are marked sent")
    relay.kill()
    assert topics(deployment) == {deployment.topic: 8, progress: SHARDS}
    assert (policy(deployment, deployment.topic), policy(deployment, progress)) == ("delete", "compact")
    ids += deployment.record(new_rows(1000))
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    checked = command(deployment.environ, "check")
    assert checked.returncode == 0, checked.stdout
    shown = command(deployment.environ, "show", str(ids[-1]), "--verify")
    assert shown.returncode == 0, shown.stdout


def test_looking_creates_no_topic(stock_world: Deployment) -> None:
    """Neither check nor show makes the broker create what they look for."""
    deployment = stock_world
    (row,) = deployment.record(new_rows(1))
    checked = command(deployment.environ, "check")
    assert "may create it" in checked.stdout
    shown = command(deployment.environ, "show", str(row))
    assert f"topic {deployment.topic}" in shown.stdout
    assert topics(deployment) == {}


def test_a_topic_deleted_under_a_running_relay_is_made_as_documented(stock_world: Deployment) -> None:
    """The producer's own look for its topic does not bring it back with the broker's defaults."""
    deployment, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    deployment.record(new_rows(100))
    deployment.relay()
    deployment.wait_drained()
    admin = AdminClient(deployment.client_config)
    for future in admin.delete_topics([deployment.topic, progress]).values():
        future.result(10)
    deployment.record(new_rows(100))
    deployment.wait_drained()
    assert topics(deployment) == {deployment.topic: 8, progress: SHARDS}
    assert policy(deployment, progress) == "compact"


@pytest.mark.parametrize("made_with", [{}, {"cleanup.policy": "compact,delete"}])
def test_a_progress_topic_made_by_somebody_else_is_put_right(
    stock_world: Deployment, made_with: dict[str, str]
) -> None:
    """Too few partitions, records that expire: the relay grows and compacts it before it sends anything."""
    deployment, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    create_topics(deployment.client_config, NewTopic(progress, 1, 1, config=made_with))
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    assert topics(deployment)[progress] == SHARDS
    assert policy(deployment, progress) == "compact"
    assert [line["before"] for line in relay.lines() if line.get("action") == "topic_compacted"] == [
        made_with.get("cleanup.policy", "delete")
    ]
    deployment.check_exactly_once(ids)


def test_each_start_looks_whether_the_progress_topic_is_compacted(stock_world: Deployment) -> None:
    """A policy that was changed meanwhile, by hand or by a tool, is put right at the next start."""
    deployment, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.stop()
    alter_topic(deployment.client_config, progress, "cleanup.policy", "delete")
    deployment.relay()
    wait_until(lambda: policy(deployment, progress) == "compact", "the topic is compacted again")
    deployment.check_exactly_once(ids)


def test_a_topic_of_somebody_else_is_not_touched(stock_world: Deployment) -> None:
    """KAFKA_PROGRESS_TOPIC that names a topic with records: refused with the command, not compacted."""
    deployment, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    create_topics(deployment.client_config, NewTopic(progress, SHARDS, 1))
    producer = Producer(deployment.client_config)
    producer.produce(progress, b"an order", b"customer")
    assert producer.flush(10) == 0
    relay = deployment.relay()
    assert relay.wait() == 1
    assert f"--topic {progress} --alter --add-config cleanup.policy=compact" in relay.log.read_text()
    assert policy(deployment, progress) == "delete"


def test_settings_of_another_outbox_create_no_topic(stock_world: Deployment) -> None:
    """A relay, or a verb, with another topic than the outbox was used with is refused before it makes that topic."""
    deployment = stock_world
    deployment.record(new_rows(10))
    deployment.relay()
    deployment.wait_drained()
    other = f"{deployment.topic}-other"
    refused = deployment.relay(KAFKA_TOPIC=other)
    assert refused.wait() == 1
    assert "KAFKA_TOPIC was" in refused.log.read_text()
    looked = command(
        deployment.environ,
        "reconcile",
        "--shard",
        "0",
        "--since",
        "1h",
        "--reason",
        "drill",
        "--dry-run",
        KAFKA_TOPIC=other,
    )
    assert looked.returncode == 1
    assert other not in AdminClient(deployment.client_config).list_topics(timeout=10).topics
