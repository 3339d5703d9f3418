"""Services that are down at start and in mid-flight: the relay waits, says so, and goes on by itself."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.deployment import Deployment, settings_for
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Postgres, Registry
from testkit.waiting import wait_until


def one_world(
    url: str,
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    folder: Path,
    deployments: list[Deployment],
) -> Deployment:
    """A world on services that the test may stop."""
    config = {"bootstrap.servers": kafka.bootstrap_servers}
    deployments.append(Deployment(url, settings_for(kafka, registry, url), config, folder))
    return deployments[-1]


@pytest.mark.parametrize("outage", ["stopped", "killed", "paused"])
def test_the_broker_goes_away_and_comes_back(
    outage: str,
    new_sqlite: Callable[[], str],
    own_kafka: Kafka,
    registry: Registry,
    tmp_path: Path,
    deployments: list[Deployment],
) -> None:
    """Rows accepted during the outage arrive after it, once; nothing is parked, no restart is needed."""
    deployment = one_world(new_sqlite(), own_kafka, registry, tmp_path, deployments)
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    # A lone broker killed within milliseconds of a commit can come back with that transaction left open
    # (docs/delivery.md). Here its markers are written before the outage begins.
    wait_until(lambda: len(deployment.seen()) == len(ids), "consumers see the first rows")
    if outage == "paused":
        own_kafka.process.pause()
    elif outage == "killed":
        own_kafka.process.kill()
    else:
        own_kafka.process.stop()
    ids += deployment.record(new_rows(100))
    if outage != "paused":
        relay.wait_degraded("shard 0", "Kafka failed")
        own_kafka.process.start()
    else:
        own_kafka.process.resume()
    ids += deployment.record(new_rows(100))
    deployment.wait_drained(120)
    wait_until(lambda: not relay.degraded(), "nothing is degraded any more")
    assert relay.running()
    deployment.check_exactly_once(ids)


def test_a_relay_starts_before_its_services(
    new_sqlite: Callable[[], str], tmp_path: Path, deployments: list[Deployment]
) -> None:
    """Broker and registry are not there at start: it waits for one after the other, then sends."""
    kafka, registry = Kafka(tmp_path / "kafka"), Registry(tmp_path / "registry")
    deployment = one_world(new_sqlite(), kafka, registry, tmp_path, deployments)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    try:
        relay.wait_degraded("kafka", "")
        wait_until(lambda: "kafka" in relay.degraded(), "it says that Kafka is away")
        kafka.start()
        relay.wait_degraded("schema registry", "does not answer")
        registry.start()
        deployment.wait_drained(120)
        deployment.check_exactly_once(ids)
    finally:
        kafka.stop()
        registry.stop()


def test_sigterm_is_heard_while_the_broker_is_away(
    new_sqlite: Callable[[], str], own_kafka: Kafka, registry: Registry, tmp_path: Path, deployments: list[Deployment]
) -> None:
    """The relay exits within 25 seconds although Kafka does not answer."""
    deployment = one_world(new_sqlite(), own_kafka, registry, tmp_path, deployments)
    relay = deployment.relay()
    wait_until(lambda: "started" in {line.get("action") for line in relay.lines()}, "the relay runs")
    own_kafka.process.pause()
    deployment.record(new_rows(10))
    wait_until(lambda: deployment.pending() == 10, "the rows are there")
    relay.signal(signal.SIGTERM)
    assert relay.wait(25) == 0
    own_kafka.process.resume()


def test_a_login_that_the_registry_refuses_is_named(
    new_sqlite: Callable[[], str], kafka: Kafka, registry: Registry, tmp_path: Path, deployments: list[Deployment]
) -> None:
    """401 is configuration: the relay waits, names the variables and never the password."""
    deployment = one_world(new_sqlite(), kafka, registry, tmp_path, deployments)
    relay = deployment.relay(SCHEMA_REGISTRY_PASSWORD="canary-password")
    relay.wait_degraded("schema registry", "SCHEMA_REGISTRY_PASSWORD")
    assert "canary-password" not in relay.get("/readyz") + relay.log.read_text()


def test_postgresql_goes_away_and_comes_back(
    own_postgres: Postgres, kafka: Kafka, registry: Registry, tmp_path: Path, deployments: list[Deployment]
) -> None:
    """The database is killed (-9) under a relay, and its return: everything arrives once."""
    from testkit.databases import migrate

    url = own_postgres.create_database("outbox").replace("postgresql://", "postgresql+psycopg://")
    migrate(url, 2)
    deployment = one_world(url, kafka, registry, tmp_path, deployments)
    ids = deployment.record(new_rows(400))
    relay = deployment.relay(RELAY_BATCH_SIZE="50")
    own_postgres.process.kill()
    wait_until(relay.degraded, "it says that the database is away")
    own_postgres.process.start()
    deployment.engine.dispose()
    ids += deployment.record(new_rows(100))
    deployment.wait_drained(120)
    deployment.check_exactly_once(ids)


def test_sqlite_is_held_by_another_writer(
    new_sqlite: Callable[[], str], kafka: Kafka, registry: Registry, tmp_path: Path, deployments: list[Deployment]
) -> None:
    """While another process holds the database's lock longer than the time-out, the relay waits and goes on."""
    deployment = one_world(new_sqlite(), kafka, registry, tmp_path, deployments)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    deployment.wait_drained()
    with deployment.engine.begin():
        # The lease cannot be renewed meanwhile, which the relay tells.
        relay.wait_degraded("shard 0", "database is locked")
    ids += deployment.record(new_rows(50))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
