"""Fixtures for fault tests: a broker behind a proxy, and deployments that reach it through the proxy."""

from collections.abc import Callable, Iterator

import pytest

from testkit.deployment import Deploy, Deployment
from testkit.proxied_services import ProxiedKafka
from testkit.services.fixtures import run_service


@pytest.fixture(scope="session")
def proxied_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedKafka]:
    """A broker behind a proxy that expires idle transactional ids within seconds."""
    yield from run_service(ProxiedKafka(tmp_path_factory.mktemp("proxied-kafka") / "kafka"))


NewProxiedDeployment = Callable[..., Deployment]


@pytest.fixture
def new_proxied_deployment(proxied_kafka: ProxiedKafka, deploy: Deploy) -> NewProxiedDeployment:
    """A function that deploys the product on a database URL; its relays reach the broker through the proxy."""
    proxied = {"KAFKA_BOOTSTRAP_SERVERS": proxied_kafka.proxied_servers}
    return lambda url, **environ: deploy(url, proxied_kafka, **proxied, **environ)
