"""The product on services as they come: a broker with its shipped settings, a registry with its defaults."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from testkit.command_line import command
from testkit.deployment import NewWorld, World
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
    worlds: list[World],
) -> NewWorld:
    """Makes a world on stock services; the test runs once for each kind of database."""

    def make(shards: int = SHARDS) -> World:
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
        worlds.append(World(url, settings, stock_kafka.client_config, tmp_path))
        return worlds[-1]

    return make


@pytest.fixture
def stock_world(new_stock_world: NewWorld) -> World:
    """A world with several shards."""
    return new_stock_world()


def topics(world: World) -> dict[str, int]:
    """The world's topics that the broker has, and how many partitions each has. Looking creates none."""
    found = AdminClient(world.client_config).list_topics(timeout=10).topics
    names = (world.topic, world.environ["KAFKA_PROGRESS_TOPIC"])
    return {name: len(found[name].partitions) for name in names if name in found}


def policy(world: World, name: str) -> str:
    """``cleanup.policy`` of a topic."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    admin = AdminClient(world.client_config)  # named, because its end would cancel what it was asked
    (future,) = admin.describe_configs([resource]).values()
    return str(future.result(10)["cleanup.policy"].value)


def test_a_first_start_a_kill_a_restart_and_a_check(stock_world: World) -> None:
    """Topics are made as documented whatever the broker's defaults are, every row arrives once, and check passes."""
    world, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    ids = world.record(new_rows(1000))
    relay = world.relay()
    wait_until(lambda: world.pending() < len(ids), "rows are marked sent")
    relay.kill()
    assert topics(world) == {world.topic: 8, progress: SHARDS}
    assert (policy(world, world.topic), policy(world, progress)) == ("delete", "compact")
    ids += world.record(new_rows(1000))
    world.relay()
    world.wait_drained()
    world.check_exactly_once(ids)
    checked = command(world.environ, "check")
    assert checked.returncode == 0, checked.stdout
    shown = command(world.environ, "show", str(ids[-1]), "--verify")
    assert shown.returncode == 0, shown.stdout


def test_looking_creates_no_topic(stock_world: World) -> None:
    """Neither check nor show makes the broker create what they look for."""
    world = stock_world
    (row,) = world.record(new_rows(1))
    checked = command(world.environ, "check")
    assert "may create it" in checked.stdout
    shown = command(world.environ, "show", str(row))
    assert f"topic {world.topic}" in shown.stdout
    assert topics(world) == {}


def test_a_topic_deleted_under_a_running_relay_is_made_as_documented(stock_world: World) -> None:
    """The producer's own look for its topic does not bring it back with the broker's defaults."""
    world, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    world.record(new_rows(100))
    world.relay()
    world.wait_drained()
    admin = AdminClient(world.client_config)
    for future in admin.delete_topics([world.topic, progress]).values():
        future.result(10)
    world.record(new_rows(100))
    world.wait_drained()
    assert topics(world) == {world.topic: 8, progress: SHARDS}
    assert policy(world, progress) == "compact"


@pytest.mark.parametrize("made_with", [{}, {"cleanup.policy": "compact,delete"}])
def test_a_progress_topic_made_by_somebody_else_is_put_right(stock_world: World, made_with: dict[str, str]) -> None:
    """Too few partitions, records that expire: the relay grows and compacts it before it sends anything."""
    world, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    create_topics(world.client_config, NewTopic(progress, 1, 1, config=made_with))
    ids = world.record(new_rows(100))
    relay = world.relay()
    world.wait_drained()
    assert topics(world)[progress] == SHARDS
    assert policy(world, progress) == "compact"
    assert [line["before"] for line in relay.lines() if line.get("action") == "topic_compacted"] == [
        made_with.get("cleanup.policy", "delete")
    ]
    world.check_exactly_once(ids)


def test_each_start_looks_whether_the_progress_topic_is_compacted(stock_world: World) -> None:
    """A policy that was changed meanwhile, by hand or by a tool, is put right at the next start."""
    world, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    ids = world.record(new_rows(100))
    relay = world.relay()
    world.wait_drained()
    relay.stop()
    alter_topic(world.client_config, progress, "cleanup.policy", "delete")
    world.relay()
    wait_until(lambda: policy(world, progress) == "compact", "the topic is compacted again")
    world.check_exactly_once(ids)


def test_a_topic_of_somebody_else_is_not_touched(stock_world: World) -> None:
    """KAFKA_PROGRESS_TOPIC that names a topic with records: refused with the command, not compacted."""
    world, progress = stock_world, stock_world.environ["KAFKA_PROGRESS_TOPIC"]
    create_topics(world.client_config, NewTopic(progress, SHARDS, 1))
    producer = Producer(world.client_config)
    producer.produce(progress, b"an order", b"customer")
    assert producer.flush(10) == 0
    relay = world.relay()
    assert relay.wait() == 1
    assert f"--topic {progress} --alter --add-config cleanup.policy=compact" in relay.log.read_text()
    assert policy(world, progress) == "delete"


def test_settings_of_another_outbox_create_no_topic(stock_world: World) -> None:
    """A relay, or a verb, with another topic than the outbox was used with is refused before it makes that topic."""
    world = stock_world
    world.record(new_rows(10))
    world.relay()
    world.wait_drained()
    other = f"{world.topic}-other"
    refused = world.relay(KAFKA_TOPIC=other)
    assert refused.wait() == 1
    assert "KAFKA_TOPIC was" in refused.log.read_text()
    looked = command(
        world.environ, "reconcile", "--shard", "0", "--since", "1h", "--reason", "drill", "--dry-run", KAFKA_TOPIC=other
    )
    assert looked.returncode == 1
    assert other not in AdminClient(world.client_config).list_topics(timeout=10).topics
