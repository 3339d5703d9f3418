"""A broker with a login and ACLs, a PostgreSQL server and a registry, and what their administrators do to them.

The relays have the rights that docs/secure-kafka.md names, and no others. They authenticate again every few seconds, so
that happens during every fault. No fault restarts web or relay, except those of a relay that starts meanwhile. All
settings that have a default keep it, so pauses are as in production.
"""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from random import Random
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import NamedTuple
from urllib.parse import urlsplit

import trustme
from confluent_kafka.admin import NewTopic, ResourceType

from testkit.administered_kafka import (
    BROKER_ID,
    HOST,
    READ,
    REAUTHENTICATION_SECONDS,
    WRITE,
    AdministeredKafka,
    Rights,
    relay_rights,
)
from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.preload import FAULTS, Clock, HostNames, build_preload_library
from testkit.proxy import BOTH_DIRECTIONS, Proxy
from testkit.services import ExternalService, Postgres, Registry
from testkit.topic import create_topics
from tests.faults.nemesis import pause
from tests.faults.single_services import with_driver
from tests.faults.system import Fault, Inject, SystemUnderTest

SHARDS = 4
USER = "cxone-relay"
WRONG_BY_SECONDS = 3_900
"""Brokers refuse records that are more than an hour ahead of their clock, so the clock is wrong by a little more."""
CLOCKS = ("relay", "web", "database", "broker")
QUOTAS = {"producer_byte_rate": 8_192, "request_percentage": 1}
CONNECTIONS = 4
"""Fewer than the relays use together."""
MAX_MESSAGE_BYTES = 800
"""Enough for any record here, and for none of the batches of several."""
BROKER, TOPIC = ResourceType.BROKER, ResourceType.TOPIC


class Services(NamedTuple):
    """What the faults change."""

    kafka: AdministeredKafka
    clocks: dict[str, Clock]
    registry: Proxy
    password: Path
    """The file from which the relays take their password."""


@contextmanager
def secured_services(
    registry: Registry | ExternalService, folder: Path, relays: int, *, only: Callable[[Fault], bool] = lambda _: True
) -> Iterator[SystemUnderTest]:
    """Start the product with a secured broker and PostgreSQL for the block.

    Args:
        registry: a running registry.
        folder: for data and logs.
        relays: number of relays.
        only: which faults to inject.
    """
    with ExitStack() as stack:
        shared = stack.enter_context(readable_folder())
        libraries = [build_preload_library(FAULTS / f"{name}.c", shared) for name in ("wrong_clock", "host_names")]
        clocks = {whose: Clock(shared / f"{whose}.clock") for whose in CLOCKS}
        preload = {"LD_PRELOAD": ":".join(map(str, libraries))}
        names = HostNames(shared / "hosts")

        kafka = AdministeredKafka(folder / "kafka", names)
        stack.callback(kafka.stop)
        kafka.environ = {**preload, **clocks["broker"].environ}
        kafka.start()
        postgres = Postgres(folder / "postgres")
        stack.callback(postgres.stop)
        postgres.environ = {**preload, **clocks["database"].environ}
        postgres.start()
        url = postgres.create_database(f"torture_{uuid.uuid4().hex[:8]}")
        migrate(url, SHARDS)
        proxy = Proxy(urlsplit(registry.url).port or 80)
        stack.callback(proxy.close)

        services = Services(kafka, clocks, proxy, folder / "kafka_password")
        change_password(services, Random(0))
        settings = {
            **settings_for(kafka, registry, url),
            "KAFKA_BOOTSTRAP_SERVERS": kafka.secured_servers,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_USERNAME": USER,
            "KAFKA_SASL_PASSWORD_FILE": str(services.password),
            "KAFKA_SSL_CA_LOCATION": str(kafka.ca_location),
            "SCHEMA_REGISTRY_URL": f"http://127.0.0.1:{proxy.port}{urlsplit(registry.url).path}",
        }
        progress = NewTopic(settings["KAFKA_PROGRESS_TOPIC"], SHARDS, 1, config={"cleanup.policy": "compact"})
        create_topics(kafka.client_config, progress)
        for rights in relay_rights(settings):
            kafka.grant(USER, rights)
        deployment = Deployment(with_driver(url), settings, kafka.client_config, folder)
        environ = {"DATABASE_URL": with_driver(url), **preload, **names.environ, **clocks["relay"].environ}
        faults = [fault for fault in faults_of(services, settings) if only(fault)]
        system = SystemUnderTest(deployment, faults, environ, relays, web_environ=clocks["web"].environ)
        stack.callback(system.close)
        yield system


@contextmanager
def readable_folder() -> Iterator[Path]:
    """A temporary folder that the database server's user can read, too."""
    folder = Path(tempfile.mkdtemp(prefix="outbox-preload-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def faults_of(services: Services, settings: dict[str, str]) -> tuple[Fault, ...]:
    """Return what administrators do to the services."""
    ids, topic, progress = relay_rights(settings)
    return (
        Fault("Write on the topic revoked", "rights", revoke(services, topic._replace(operations=(WRITE,)))),
        Fault("rights on the transactional ids revoked", "rights", revoke(services, ids)),
        Fault(
            "Read and Write on the progress topic revoked",
            "rights",
            revoke(services, progress._replace(operations=(READ, WRITE))),
        ),
        Fault("every right revoked", "rights", revoke(services, ids, topic, progress)),
        Fault("password changed", "login", lambda _, rng: change_password(services, rng)),
        Fault("address moved, the old one refuses", "address", move(services, refuse)),
        Fault("address moved, the old one is silent", "address", move(services, be_silent)),
        Fault("name does not resolve", "address", lose_name(services)),
        Fault("certificate renewed", "certificate", renew_certificate(services)),
        Fault("authority replaced", "certificate", replace_authority(services)),
        Fault("certificate expired", "certificate", expire_certificate(services)),
        *(
            Fault(f"clock of {whose} {'ahead' if by > 0 else 'behind'}", "clock", step_clock(services, whose, by))
            for whose in CLOCKS
            for by in (WRONG_BY_SECONDS, -WRONG_BY_SECONDS)
        ),
        *(Fault(f"quota {name}", "quota", limit(services, name, value)) for name, value in QUOTAS.items()),
        Fault("connection limit reached", "connections", limit_connections(services)),
        Fault("max.message.bytes lowered", "topic", lower_max_message_bytes(services)),
        Fault("a relay starts without the registry", "relay", start_without(services, services.registry.down)),
        Fault("a relay starts, the registry refuses it", "relay", start_without(services, lambda: refused(services))),
    )


# Rights and login ----------------------------------------------------------------------------------


def revoke(services: Services, *rights: Rights) -> Inject:
    """Revoke rights for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        for each in rights:
            services.kafka.withdraw(USER, each)
        pause(rng.uniform(1, 6))
        for each in rights:
            services.kafka.grant(USER, each)

    return inject


def change_password(services: Services, rng: Random) -> None:
    """Change the password at the broker, and in the relays' file up to some sessions later."""
    password = f"password-{rng.getrandbits(64)}"
    services.kafka.add_user(USER, password)
    if services.password.exists():
        pause(rng.uniform(0, 2 * REAUTHENTICATION_SECONDS))
    following = services.password.with_suffix(".new")
    following.write_text(password)
    following.replace(services.password)


# Address -------------------------------------------------------------------------------------------


def move(services: Services, leave: Callable[[Proxy], AbstractContextManager[None]]) -> Inject:
    """Move the broker to its other address, and let the old one fail for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        proxies = services.kafka.proxies
        proxies.reverse()
        with leave(proxies[1]):
            pause(rng.uniform(0, 2))
            services.kafka.names.point(HOST, proxies[0].host)
            pause(rng.uniform(1, 4))

    return inject


def refuse(proxy: Proxy) -> AbstractContextManager[None]:
    """Reset a proxy's connections, and refuse new ones."""
    return proxy.down()


def be_silent(proxy: Proxy) -> AbstractContextManager[None]:
    """Let a proxy's connections vanish without a word."""
    return proxy.half_open(BOTH_DIRECTIONS)


def lose_name(services: Services) -> Inject:
    """Reset the connections while the name does not resolve."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        names, proxy = services.kafka.names, services.kafka.proxies[0]
        names.point(HOST, None)
        services.kafka.cut()
        pause(rng.uniform(1, 6))
        names.point(HOST, proxy.host)

    return inject


# Certificates --------------------------------------------------------------------------------------


def renew_certificate(services: Services) -> Inject:
    """Renew the broker's certificate, then reset the connections."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        services.kafka.renew_certificate()
        pause(rng.uniform(0, 1))
        services.kafka.cut()

    return inject


def replace_authority(services: Services) -> Inject:
    """Trust a second authority, let it issue the broker's certificate, then trust only it."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        kafka, following = services.kafka, trustme.CA()
        kafka.trust(kafka.authority, following)
        pause(rng.uniform(0, 2))
        kafka.authority = following
        kafka.renew_certificate()
        kafka.cut()
        pause(rng.uniform(0, 2))
        kafka.trust(following)

    return inject


def expire_certificate(services: Services) -> Inject:
    """Let the broker show an expired certificate for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        services.kafka.renew_certificate(expired=True)
        services.kafka.cut()
        pause(rng.uniform(1, 6))
        services.kafka.renew_certificate()

    return inject


# Clocks, limits, settings --------------------------------------------------------------------------


def step_clock(services: Services, whose: str, seconds: int) -> Inject:
    """Set a clock wrong for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        services.clocks[whose].set_ahead(seconds)
        pause(rng.uniform(2, 6))
        services.clocks[whose].set_ahead(0)

    return inject


def limit(services: Services, name: str, value: int) -> Inject:
    """Set a quota for the relays' user for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        services.kafka.limit_user(USER, name, value)
        pause(rng.uniform(2, 8))
        services.kafka.limit_user(USER, name, None)

    return inject


def limit_connections(services: Services) -> Inject:
    """Limit the connections to fewer than the relays use, then reset those that there are."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        kafka, setting = services.kafka, "max.connections.per.ip.overrides"
        kafka.configure(BROKER, BROKER_ID, {setting: f"{kafka.proxies[0].host}:{CONNECTIONS}"})
        kafka.cut()
        pause(rng.uniform(2, 6))
        kafka.configure(BROKER, BROKER_ID, {setting: None})

    return inject


def lower_max_message_bytes(services: Services) -> Inject:
    """Let the topic refuse batches of several records for a while, but no record."""

    def inject(system: SystemUnderTest, rng: Random) -> None:
        topic, setting = system.deployment.topic, "max.message.bytes"
        services.kafka.configure(TOPIC, topic, {setting: str(MAX_MESSAGE_BYTES)})
        pause(rng.uniform(1, 6))
        services.kafka.configure(TOPIC, topic, {setting: None})

    return inject


# Registry ------------------------------------------------------------------------------------------


def start_without(services: Services, unavailable: Callable[[], AbstractContextManager[None]]) -> Inject:
    """Replace one relay (-9) by another that starts while the registry is unavailable."""

    def inject(system: SystemUnderTest, rng: Random) -> None:
        index = rng.randrange(len(system.relays))
        with unavailable():
            services.registry.cut()
            system.relays[index].kill()
            system.start_relay(index)
            pause(rng.uniform(3, 8))

    return inject


class _Refusal(StreamRequestHandler):
    """Answers a request with 401."""

    def handle(self) -> None:
        while self.rfile.readline().strip():  # to the end of the header
            pass
        self.wfile.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextmanager
def refused(services: Services) -> Iterator[None]:
    """Let the registry refuse every login within the block."""
    target = services.registry.target_port
    with ThreadingTCPServer(("127.0.0.1", 0), _Refusal) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        services.registry.target_port = server.server_address[1]
        try:
            yield
        finally:
            services.registry.target_port = target
            server.shutdown()
