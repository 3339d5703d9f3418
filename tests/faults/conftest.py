"""Fixtures of the faults: a broker behind a proxy, and a product that reaches it that way only."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from testkit.deployment import Deployment, settings_for
from testkit.proxied_services import ProxiedKafka
from testkit.services import ExternalService, Registry
from testkit.services.fixtures import run_service


def behind_proxy(
    url: str, kafka: ProxiedKafka, registry: Registry | ExternalService, folder: Path, environ: Mapping[str, str]
) -> Deployment:
    """A world whose relays reach the broker through its proxy, and whose test reaches it directly."""
    settings = settings_for(kafka, registry, url) | {"KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers}
    return Deployment(url, {**settings, **environ}, {"bootstrap.servers": kafka.bootstrap_servers}, folder)


@pytest.fixture(scope="session")
def proxied_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedKafka]:
    """A broker behind a proxy, which forgets idle transactional ids within seconds."""
    yield from run_service(ProxiedKafka(tmp_path_factory.mktemp("proxied-kafka") / "kafka"))


NewProxiedDeployment = Callable[..., Deployment]


@pytest.fixture
def new_proxied_deployment(
    proxied_kafka: ProxiedKafka, registry: Registry | ExternalService, tmp_path: Path, deployments: list[Deployment]
) -> NewProxiedDeployment:
    """Makes a world on a database, with the broker behind its proxy."""

    def make(url: str, **environ: str) -> Deployment:
        deployments.append(behind_proxy(url, proxied_kafka, registry, tmp_path, environ))
        return deployments[-1]

    return make
