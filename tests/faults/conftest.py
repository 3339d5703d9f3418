"""Fixtures of the faults: a broker behind a proxy, and a product that reaches it that way only."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from testkit.deployment import World, settings_for
from testkit.proxied_services import ProxiedKafka
from testkit.services import Given, Registry
from testkit.services.fixtures import started


def behind_proxy(
    url: str, kafka: ProxiedKafka, registry: Registry | Given, folder: Path, environ: Mapping[str, str]
) -> World:
    """A world whose relays reach the broker through its proxy, and whose test reaches it directly."""
    settings = settings_for(kafka, registry, url) | {"KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers}
    return World(url, {**settings, **environ}, {"bootstrap.servers": kafka.bootstrap_servers}, folder)


@pytest.fixture(scope="session")
def proxied_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedKafka]:
    """A broker behind a proxy, which forgets idle transactional ids within seconds."""
    yield from started(ProxiedKafka(tmp_path_factory.mktemp("proxied-kafka") / "kafka"))


NewProxiedWorld = Callable[..., World]


@pytest.fixture
def new_proxied_world(
    proxied_kafka: ProxiedKafka, registry: Registry | Given, tmp_path: Path, worlds: list[World]
) -> NewProxiedWorld:
    """Makes a world on a database, with the broker behind its proxy."""

    def make(url: str, **environ: str) -> World:
        worlds.append(behind_proxy(url, proxied_kafka, registry, tmp_path, environ))
        return worlds[-1]

    return make
