"""A PostgreSQL primary with a synchronous standby, partly behind PgBouncer, and their faults.

The relays' URL names both servers. The web process reaches the primary through PgBouncer in transaction mode, and
PgBouncer through an address that is moved at a promotion. After each promotion the other server becomes the
synchronous standby again, so that the next fault can come.
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from signal import SIGINT

import psycopg

from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.proxied_services import ProxiedKafka, restart_service
from testkit.proxy import Direction
from testkit.replicated_postgres import ReplicatedPostgres
from testkit.services import ExternalService, PgBouncer, Registry
from tests.faults.nemesis import PARTLY_OPEN, PROCESS_FAULTS, apply_for, pause, stopped
from tests.faults.single_services import cut_at_commit
from tests.faults.system import SETTINGS, Fault, Inject, SystemUnderTest

SHARDS = 4


@contextmanager
def replicated_services(registry: Registry | ExternalService, folder: Path, relays: int) -> Iterator[SystemUnderTest]:
    """Start the product with one broker, a primary with its synchronous standby, and a pooler, for the block.

    Args:
        registry: a running registry.
        folder: for data and logs.
        relays: number of relays.
    """
    with ExitStack() as stack:
        kafka, postgres = ProxiedKafka(folder / "kafka"), ReplicatedPostgres(folder / "postgres")
        for service in (kafka, postgres):
            stack.callback(service.stop)
            service.start()
        yield stack.enter_context(product_on(postgres, kafka, registry, folder, relays))


@contextmanager
def product_on(
    postgres: ReplicatedPostgres,
    kafka: ProxiedKafka,
    registry: Registry | ExternalService,
    folder: Path,
    relays: int,
) -> Iterator[SystemUnderTest]:
    """Start a pooler and the product on running services for the block."""
    database = f"torture_{uuid.uuid4().hex[:8]}"
    postgres.primary.create_database(database)
    url = postgres.direct_url(database)
    migrate(url, SHARDS)
    address = f"postgresql+psycopg://outbox@127.0.0.1:{postgres.address.port}/{database}"
    with ExitStack() as stack:
        pooler = PgBouncer(folder / "pgbouncer", address, admin_users="outbox", server_login_retry="1")
        stack.callback(pooler.stop)
        pooler.start()
        settings = {**settings_for(kafka, registry, url), "KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers, **SETTINGS}
        system = SystemUnderTest(
            Deployment(url, settings, kafka.client_config, folder),
            (*PROCESS_FAULTS, *replicated_faults(postgres, database), *pooler_faults(pooler), commit_fault(kafka)),
            {"DATABASE_URL": postgres.proxied_url(database)},
            relays,
            web_environ={"DATABASE_URL": pooler.url(address)},
        )
        stack.callback(system.close)
        yield system


def commit_fault(kafka: ProxiedKafka) -> Fault:
    """Return the fault that leaves the outcome of a commit in Kafka unknown, for simultaneous faults above all."""
    inject = cut_at_commit(kafka.proxy, Direction.FROM_SERVICE)
    return Fault("cut before a commit's answer is back", "broker link", inject)


def replicated_faults(postgres: ReplicatedPostgres, database: str) -> tuple[Fault, ...]:
    """Return the faults of the servers and of the link to the primary."""
    return *promotions(postgres, database), *server_faults(postgres, database), *link_faults(postgres)


# Promotions ----------------------------------------------------------------------------------------


def promotions(postgres: ReplicatedPostgres, database: str) -> tuple[Fault, ...]:
    """Return the faults after which the standby is the primary."""
    return (
        Fault("primary killed (-9), standby promoted", "database", kill_primary(postgres)),
        Fault("primary frozen, standby promoted, primary resumed", "database", resume_old_primary(postgres, database)),
        Fault("switchover", "database", switch_over(postgres)),
        Fault("waits terminated, then the stale standby promoted", "database", promote_stale(postgres, database)),
    )


def kill_primary(postgres: ReplicatedPostgres) -> Inject:
    """Kill (-9) the primary and promote the standby."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        postgres.primary.kill()
        pause(rng.uniform(0, 2))
        postgres.promote_standby()
        postgres.rebuild_standby()

    return inject


def resume_old_primary(postgres: ReplicatedPostgres, database: str) -> Inject:
    """Freeze the primary, promote the standby, and resume the old primary for a while before it is fenced.

    Its commits cannot be acknowledged, as it has no standby any more: what it adds meanwhile belongs to nobody.
    """

    def inject(_: SystemUnderTest, rng: Random) -> None:
        old = postgres.primary
        with stopped(old.processes):
            pause(rng.uniform(0, 2))
            postgres.promote_standby(cut=rng.random() < 0.5)
            pause(rng.uniform(0, 3))
        pause(rng.uniform(2, 8))
        with suppress(psycopg.OperationalError), psycopg.connect(old.url, autocommit=True) as connection:
            # An operator who ends the sessions makes their commits visible, though no standby has them.
            terminate_sessions(connection, database)
        postgres.rebuild_standby()

    return inject


def switch_over(postgres: ReplicatedPostgres) -> Inject:
    """Shut the primary down, promote the standby, and let the old primary follow it."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        postgres.primary.process.stop(SIGINT)
        pause(rng.uniform(0, 1))
        postgres.promote_standby()
        postgres.rebuild_standby()

    return inject


def promote_stale(postgres: ReplicatedPostgres, database: str) -> Inject:
    """Lose the standby, end the sessions that wait for it, kill the primary, and promote the standby as it was.

    This loses no acknowledged commit, but those that became visible on the old primary without an acknowledgement.
    """

    def inject(_: SystemUnderTest, rng: Random) -> None:
        postgres.standby.kill()
        for _repetition in range(rng.randint(1, 3)):
            pause(rng.uniform(0.5, 3))
            if rng.random() < 0.5:
                with psycopg.connect(postgres.primary.url, autocommit=True) as connection:
                    terminate_sessions(connection, database)
            else:
                postgres.primary.kill()
                restart_service(postgres.primary.start)
        pause(rng.uniform(0, 2))
        postgres.primary.kill()
        restart_service(postgres.standby.start)
        postgres.promote_standby()
        postgres.rebuild_standby()

    return inject


# Servers -------------------------------------------------------------------------------------------


def server_faults(postgres: ReplicatedPostgres, database: str) -> tuple[Fault, ...]:
    """Return the faults after which the primary is still the same."""
    return (
        Fault("standby lost", "database", lose_standby(postgres)),
        Fault(
            "standby lost, and sessions of commits that wait for it terminated",
            "database",
            end_waits(postgres, database),
        ),
        Fault("primary killed (-9) while the standby is lost", "database", restart_alone(postgres)),
        Fault("all sessions terminated", "database", end_sessions(postgres, database)),
        Fault("disk full", "database", fill_disk(postgres)),
        Fault("connections used up by others", "database", use_up_connections(postgres, database)),
    )


def lose_standby(postgres: ReplicatedPostgres) -> Inject:
    """Lose the standby for a while, sometimes longer than the product waits for a commit."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with postgres.without_standby():
            pause(rng.uniform(1, 25))

    return inject


def end_waits(postgres: ReplicatedPostgres, database: str) -> Inject:
    """Lose the standby and end the sessions that wait for it: their commits become visible on the primary alone."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with postgres.without_standby():
            pause(rng.uniform(1, 5))
            with psycopg.connect(postgres.primary.url, autocommit=True) as connection:
                terminate_sessions(connection, database)
            pause(rng.uniform(0, 3))

    return inject


def restart_alone(postgres: ReplicatedPostgres) -> Inject:
    """Lose the standby, kill (-9) and restart the primary, and start the standby again."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with postgres.without_standby():
            pause(rng.uniform(0, 3))
            postgres.primary.kill()
            pause(rng.uniform(0, 1))
            restart_service(postgres.primary.start)
            pause(rng.uniform(0, 3))

    return inject


def terminate_sessions(connection: psycopg.Connection, database: str) -> None:
    """Terminate every session of a database but this one."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
        [database],
    )


def end_sessions(postgres: ReplicatedPostgres, database: str) -> Inject:
    """Terminate every session on the primary, a few times."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with psycopg.connect(postgres.primary.url, autocommit=True) as connection:
            for _repetition in range(rng.randint(1, 5)):
                terminate_sessions(connection, database)
                pause(rng.uniform(0, 0.5))

    return inject


def fill_disk(postgres: ReplicatedPostgres) -> Inject:
    """Leave no space on the primary's disk for a while; the server may end itself, and is restarted then."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with postgres.primary.disk_full():
            pause(rng.uniform(3, 12))
        postgres.primary.ensure_running()
        postgres.wait_until_synchronous()

    return inject


def use_up_connections(postgres: ReplicatedPostgres, database: str) -> Inject:
    """Terminate every session on the primary, and open others until it accepts no more, for a while."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with ExitStack() as stack:
            others = stack.enter_context(psycopg.connect(postgres.primary.url, autocommit=True))
            terminate_sessions(others, database)
            with suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(psycopg.connect(postgres.primary.url))
            pause(rng.uniform(2, 12))

    return inject


# Links ---------------------------------------------------------------------------------------------


def link_faults(postgres: ReplicatedPostgres) -> tuple[Fault, ...]:
    """Return the faults of the link to the current primary."""

    def cut(_: SystemUnderTest, rng: Random) -> None:
        apply_for(postgres.primary.proxy.down(), rng.uniform(0, 4))

    def half_open(_: SystemUnderTest, rng: Random) -> None:
        apply_for(postgres.primary.proxy.half_open(rng.choice(PARTLY_OPEN)), rng.uniform(0.5, 4))

    return (
        Fault("primary's link cut", "database link", cut),
        Fault("primary's link half-open", "database link", half_open),
    )


# Pooler --------------------------------------------------------------------------------------------


def pooler_faults(pooler: PgBouncer) -> tuple[Fault, ...]:
    """Return the faults of PgBouncer."""

    def restart_after(end: str) -> Inject:
        def inject(_: SystemUnderTest, rng: Random) -> None:
            getattr(pooler.process, end)()
            pause(rng.uniform(0, 2))
            restart_service(pooler.start)

        return inject

    def reload(_: SystemUnderTest, rng: Random) -> None:
        for _repetition in range(rng.randint(1, 3)):
            pooler.administer("RELOAD")
            pause(rng.uniform(0, 0.5))

    def pause_and_resume(_: SystemUnderTest, rng: Random) -> None:
        pooler.administer("PAUSE")
        pause(rng.uniform(1, 12))
        pooler.administer("RESUME")

    return (
        Fault("pooler killed (-9)", "pooler", restart_after("kill")),
        Fault("pooler stopped", "pooler", restart_after("stop")),
        Fault("pooler reloaded", "pooler", reload),
        Fault("pooler paused", "pooler", pause_and_resume),
    )
