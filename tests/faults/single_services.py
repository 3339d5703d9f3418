"""One broker and a SQLite file or one PostgreSQL server, behind proxies, and their faults."""

import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import psutil

from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.proxied_services import ProxiedKafka, ProxiedPostgres, restart_service
from testkit.proxy import Direction, Proxy
from testkit.services import ExternalService, Registry
from testkit.services.process import Process
from testkit.waiting import wait_until
from tests.faults.nemesis import PROCESS_FAULTS, cut, delay, half_open, pause, stopped
from tests.faults.system import SETTINGS, Fault, Inject, SystemUnderTest

HOLD_SECONDS = 5.0
"""How long a fault at a commit waits for a commit before it is skipped."""
OPEN_STATES = ("Ongoing", "PrepareCommit", "PrepareAbort")
"""States of a transaction whose markers are not all written."""
SHARDS = {"sqlite": 1, "postgresql": 4}


@contextmanager
def single_services(
    database: str, registry: Registry | ExternalService, folder: Path, relays: int
) -> Iterator[SystemUnderTest]:
    """Start the product with one broker and this kind of database for the block.

    Args:
        database: sqlite or postgresql.
        registry: a running registry.
        folder: for data and logs.
        relays: number of relays; on SQLite all but one are standbys.
    """
    with ExitStack() as stack:
        kafka = ProxiedKafka(folder / "kafka")
        stack.callback(kafka.stop)
        kafka.start()
        faults = PROCESS_FAULTS + broker_faults(kafka)
        url = product_url = f"sqlite:///{folder}/outbox.db"
        if database == "postgresql":
            postgres = ProxiedPostgres(folder / "postgres")
            stack.callback(postgres.stop)
            postgres.start()
            url = postgres.create_database(f"torture_{uuid.uuid4().hex[:8]}")
            product_url = postgres.proxied_url(url)
            faults += database_faults(postgres)
        migrate(url, SHARDS[database])
        settings = {**settings_for(kafka, registry, url), "KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers, **SETTINGS}
        deployment = Deployment(with_driver(url), settings, kafka.client_config, folder)
        system = SystemUnderTest(deployment, faults, {"DATABASE_URL": with_driver(product_url)}, relays)
        stack.callback(system.close)
        yield system


def with_driver(url: str) -> str:
    """Return a database's URL as SQLAlchemy takes it."""
    return url.replace("postgresql://", "postgresql+psycopg://")


# Broker --------------------------------------------------------------------------------------------


def broker_faults(kafka: ProxiedKafka) -> tuple[Fault, ...]:
    """Return the faults of a lone broker and of the link to it."""
    link = kafka.proxy
    return (
        Fault("broker stopped", "broker", restart_broker(kafka, Process.stop)),
        Fault("broker killed (-9)", "broker", restart_broker(kafka, Process.kill)),
        Fault("broker frozen", "broker", freeze_broker(kafka)),
        Fault("broker link cut", "broker link", cut(link)),
        Fault("broker link slow", "broker link", delay(link)),
        Fault("broker link half-open", "broker link", half_open(link)),
        Fault("cut before a commit reaches the broker", "broker link", cut_at_commit(link, Direction.TO_SERVICE)),
        Fault("cut before a commit's answer is back", "broker link", cut_at_commit(link, Direction.FROM_SERVICE)),
    )


def restart_broker(kafka: ProxiedKafka, end: Callable[[Process], None]) -> Inject:
    """End the broker, and restart it; the relays restart while it is down."""

    def inject(system: SystemUnderTest, rng: Random) -> None:
        kill_relays_cleanly(system, kafka)
        end(kafka.process)
        for index in range(len(system.relays)):
            system.start_relay(index)
        pause(rng.uniform(0, 1))
        restart_service(kafka.start)

    return inject


def kill_relays_cleanly(system: SystemUnderTest, kafka: ProxiedKafka) -> None:
    """Kill every relay, and wait until the broker has ended their open transactions.

    A single broker that restarts with an open transaction may leave it open indefinitely (see docs/delivery.md). So
    none is open when the broker stops, and the relays restart while it is down.
    """
    prefix = system.deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"].encode()

    def no_transaction_is_open() -> bool:
        for relay in system.relays:  # a simultaneous fault may have restarted one
            relay.kill()
        return prefix not in kafka.transactions(*OPEN_STATES)

    wait_until(no_transaction_is_open, "no transaction is open")


def freeze_broker(kafka: ProxiedKafka) -> Inject:
    """Stop the broker (SIGSTOP) for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with stopped([psutil.Process(kafka.process.pid)]):
            pause(rng.uniform(1, 6))

    return inject


def cut_at_commit(link: Proxy, direction: Direction) -> Inject:
    """Cut the broker link exactly at a commit, so that its request or its response is lost."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        hold = link.hold_commit(direction)
        if hold.reached.wait(HOLD_SECONDS):
            with link.down():
                hold.drop()
                pause(rng.uniform(0, 4))
        link.cancel_hold()
        hold.drop()

    return inject


# Database ------------------------------------------------------------------------------------------


def database_faults(postgres: ProxiedPostgres) -> tuple[Fault, ...]:
    """Return the faults of a PostgreSQL server and of the link to it; SQLite is a file and has none of its own.

    It is stopped by SIGINT, which ends its sessions.
    """
    return (
        Fault("database stopped", "database", restart_database(postgres, lambda: postgres.process.stop(signal.SIGINT))),
        Fault("database killed (-9)", "database", restart_database(postgres, postgres.kill)),
        Fault("database frozen", "database", freeze_database(postgres)),
        Fault("database link cut", "database link", cut(postgres.proxy)),
        Fault("database link slow", "database link", delay(postgres.proxy)),
        Fault("database link half-open", "database link", half_open(postgres.proxy)),
    )


def restart_database(postgres: ProxiedPostgres, end: Callable[[], None]) -> Inject:
    """End the database server, and restart it."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        end()
        pause(rng.uniform(0, 1))
        restart_service(postgres.start)

    return inject


def freeze_database(postgres: ProxiedPostgres) -> Inject:
    """Stop (SIGSTOP) every process of the database server for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with stopped(postgres.processes):
            pause(rng.uniform(1, 6))

    return inject
