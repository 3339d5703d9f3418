"""A slow way to Kafka: rows go on, however slowly, and the relay says how slow it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.deployment import Deployment, settings_for
from testkit.proxied_services import ProxiedKafka
from testkit.rows import large_rows
from testkit.services import ExternalService, Kafka, Registry
from testkit.waiting import wait_until
from tests.faults.conftest import NewProxiedDeployment

QUOTA_BYTES = 65_536
ROW_BYTES = 400


def test_a_producer_quota_slows_rows_down_and_stops_none(
    new_sqlite: Callable[[], str],
    own_kafka: Kafka,
    registry: Registry | ExternalService,
    tmp_path: Path,
    deployments: list[Deployment],
) -> None:
    """A backlog that takes the broker a minute arrives with default settings, and the condition says why it lasts."""
    deployment = Deployment(
        (url := new_sqlite()), settings_for(own_kafka, registry, url), own_kafka.client_config, tmp_path
    )
    deployments.append(deployment)
    own_kafka.limit_producers(QUOTA_BYTES)
    ids = deployment.record(large_rows(8_000))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "the way to Kafka is slow: about")
    deployment.wait_drained(240)
    deployment.check_exactly_once(ids)
    deployment.record(large_rows(1))
    deployment.wait_drained()
    wait_until(lambda: not relay.degraded(), "nothing is degraded any more")


@pytest.mark.parametrize("relays", [1, 2])
def test_a_thin_link_shared_by_many_shards(
    relays: int,
    new_postgresql: Callable[[int], str],
    proxied_kafka: ProxiedKafka,
    new_proxied_deployment: NewProxiedDeployment,
) -> None:
    """Shards that share a link which carries a full batch of each in a minute send all the same, and none is fenced."""
    deployment = new_proxied_deployment(new_postgresql(8))
    ids = deployment.record(large_rows(10_000))
    proxied_kafka.proxy.bytes_per_second = 125_000
    try:
        processes = [deployment.relay() for _ in range(relays)]
        deployment.wait_drained(300)
    finally:
        proxied_kafka.proxy.bytes_per_second = None
    deployment.check_exactly_once(ids)
    assert all(process.running() for process in processes)
