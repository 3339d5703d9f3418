"""The product on services with their defaults: a broker with the settings it ships with, and a registry."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from testkit.command_line import command
from testkit.deployment import Deployment, NewDeployment
from testkit.rows import new_rows
from testkit.services import StockKafka, StockRegistry
from testkit.topic import alter_topic, create_topics
from testkit.waiting import wait_until

SHARDS = 3


@pytest.fixture
def new_stock_deployment(
    new_database: Callable[..., str],
    stock_kafka: StockKafka,
    stock_registry: StockRegistry,
    tmp_path: Path,
    deployments: list[Deployment],
) -> NewDeployment:
    """Creates deployments on stock services. The test runs once for each kind of database."""

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
def stock_deployment(new_stock_deployment: NewDeployment) -> Deployment:
    """A deployment with several shards."""
    return new_stock_deployment()


def topics(deployment: Deployment) -> dict[str, int]:
    """The deployment's topics, and the number of partitions of each. The request creates no topic."""
    found = AdminClient(deployment.client_config).list_topics(timeout=10).topics
    names = (deployment.topic, deployment.environ["KAFKA_PROGRESS_TOPIC"])
    return {name: len(found[name].partitions) for name in names if name in found}


def topic_ids(deployment: Deployment) -> set[str]:
    """The id that each of the deployment's topics got when it was created."""
    names = TopicCollection([deployment.topic, deployment.environ["KAFKA_PROGRESS_TOPIC"]])
    admin, found = AdminClient(deployment.client_config), set()  # without a client, no future gets its result
    for future in admin.describe_topics(names, request_timeout=10).values():
        try:
            found.add(str(future.result(20).topic_id))
        except KafkaException as exception:
            if exception.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return found


def cleanup_policy(deployment: Deployment, name: str) -> str:
    """``cleanup.policy`` of a topic."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    admin = AdminClient(deployment.client_config)  # kept in a variable: its destruction would cancel the request
    (future,) = admin.describe_configs([resource]).values()
    return str(future.result(10)["cleanup.policy"].value)


def test_start_kill_restart_and_check(stock_deployment: Deployment) -> None:
    """The relay creates the topics as documented, every row is sent exactly once, and the check succeeds."""
    deployment, progress = stock_deployment, stock_deployment.environ["KAFKA_PROGRESS_TOPIC"]
    ids = deployment.record(new_rows(1000))
    relay = deployment.relay()
    wait_until(lambda: deployment.pending() < len(ids), "rows are marked sent")
    relay.kill()
    assert topics(deployment) == {deployment.topic: 8, progress: SHARDS}
    assert cleanup_policy(deployment, deployment.topic) == "delete"
    assert cleanup_policy(deployment, progress) == "compact"
    ids += deployment.record(new_rows(1000))
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    checked = command(deployment.environ, "check")
    assert checked.returncode == 0, checked.stdout
    shown = command(deployment.environ, "show", str(ids[-1]), "--verify")
    assert shown.returncode == 0, shown.stdout


def test_check_and_show_create_no_topic(stock_deployment: Deployment) -> None:
    """A broker creates a topic when a client requests its metadata, unless the client forbids it."""
    deployment = stock_deployment
    (row,) = deployment.record(new_rows(1))
    checked = command(deployment.environ, "check")
    assert "may create it" in checked.stdout
    shown = command(deployment.environ, "show", str(row))
    assert f"topic {deployment.topic}" in shown.stdout
    assert topics(deployment) == {}


def test_a_topic_deleted_while_the_relay_runs_is_created_as_documented(stock_deployment: Deployment) -> None:
    """The producer's own metadata requests do not create it with the broker's defaults."""
    deployment, progress = stock_deployment, stock_deployment.environ["KAFKA_PROGRESS_TOPIC"]
    deployment.record(new_rows(100))
    deployment.relay()
    deployment.wait_drained()
    admin, deleted = AdminClient(deployment.client_config), topic_ids(deployment)
    assert len(deleted) == 2
    for future in admin.delete_topics([deployment.topic, progress]).values():
        future.result(10)
    # Brokers learn of it later than the client that asked for it, and would still take the next rows.
    wait_until(lambda: not topic_ids(deployment) & deleted, "no broker has the deleted topics any more")
    deployment.record(new_rows(100))
    deployment.wait_drained()
    assert topics(deployment) == {deployment.topic: 8, progress: SHARDS}
    assert cleanup_policy(deployment, progress) == "compact"


@pytest.mark.parametrize("settings", [{}, {"cleanup.policy": "compact,delete"}])
def test_an_unsuitable_progress_topic_is_corrected(stock_deployment: Deployment, settings: dict[str, str]) -> None:
    """The relay adds partitions and compacts the topic before it sends anything."""
    deployment, progress = stock_deployment, stock_deployment.environ["KAFKA_PROGRESS_TOPIC"]
    create_topics(deployment.client_config, NewTopic(progress, 1, 1, config=settings))
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    assert topics(deployment)[progress] == SHARDS
    assert cleanup_policy(deployment, progress) == "compact"
    before = {line["before"] for line in relay.lines() if line.get("action") == "topic_compacted"}
    assert before == {settings.get("cleanup.policy", "delete")}
    deployment.check_exactly_once(ids)


def test_the_progress_topic_is_compacted_again_at_the_next_start(stock_deployment: Deployment) -> None:
    """If its policy was changed while no relay ran."""
    deployment, progress = stock_deployment, stock_deployment.environ["KAFKA_PROGRESS_TOPIC"]
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.stop()
    alter_topic(deployment.client_config, progress, "cleanup.policy", "delete")
    deployment.relay()
    wait_until(lambda: cleanup_policy(deployment, progress) == "compact", "the topic is compacted again")
    deployment.check_exactly_once(ids)


def test_a_progress_topic_with_foreign_records_is_not_changed(stock_deployment: Deployment) -> None:
    """If this outbox has never used the topic, the relay exits with the command that compacts it."""
    deployment, progress = stock_deployment, stock_deployment.environ["KAFKA_PROGRESS_TOPIC"]
    create_topics(deployment.client_config, NewTopic(progress, SHARDS, 1))
    producer = Producer(deployment.client_config)
    producer.produce(progress, b"an order", b"customer")
    assert producer.flush(10) == 0
    relay = deployment.relay()
    assert relay.wait() == 1
    assert f"--topic {progress} --alter --add-config cleanup.policy=compact" in relay.log.read_text()
    assert cleanup_policy(deployment, progress) == "delete"


def test_changed_settings_create_no_topic(stock_deployment: Deployment) -> None:
    """Relay and commands refuse another topic than the outbox was used with, before they create it."""
    deployment = stock_deployment
    deployment.record(new_rows(10))
    deployment.relay()
    deployment.wait_drained()
    other = f"{deployment.topic}-other"
    refused = deployment.relay(KAFKA_TOPIC=other)
    assert refused.wait() == 1
    assert "KAFKA_TOPIC was" in refused.log.read_text()
    reconciled = command(
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
    assert reconciled.returncode == 1
    assert other not in AdminClient(deployment.client_config).list_topics(timeout=10).topics
