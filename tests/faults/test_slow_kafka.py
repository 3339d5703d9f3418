"""A slow link to Kafka: rows are sent, however slowly, and the relay reports the rate."""

from collections.abc import Callable

import pytest

from testkit.deployment import Deploy
from testkit.proxied_services import ProxiedKafka
from testkit.rows import large_rows
from testkit.services import Kafka
from testkit.waiting import wait_until
from tests.faults.conftest import NewProxiedDeployment

QUOTA_BYTES = 65_536


@pytest.mark.timeout(900)
def test_a_producer_quota_delays_rows_and_stops_none(
    new_sqlite: Callable[[], str],
    own_kafka: Kafka,
    deploy: Deploy,
) -> None:
    """With default settings a backlog of a minute is sent, and the shard's condition names the slow link."""
    deployment = deploy(new_sqlite(), own_kafka)
    own_kafka.limit_producers(QUOTA_BYTES)
    ids = deployment.record(large_rows(8_000))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "Kafka is slow: about")
    deployment.wait_drained(240)
    deployment.check_exactly_once(ids)
    deployment.record(large_rows(1))
    deployment.wait_drained()
    wait_until(lambda: not relay.degraded(), "nothing is degraded")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("relays", [1, 2])
def test_many_shards_share_a_slow_link(
    relays: int,
    new_postgresql: Callable[[int], str],
    proxied_kafka: ProxiedKafka,
    new_proxied_deployment: NewProxiedDeployment,
) -> None:
    """Shards send everything over a link that needs a minute for a full batch of each, and no relay is fenced."""
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
