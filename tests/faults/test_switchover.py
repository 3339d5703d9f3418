"""A PostgreSQL primary is gone, its synchronous standby is promoted, and it comes back as the standby, under load."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.load import LoadGenerator
from testkit.proxy import Proxy
from testkit.services import ExternalService, Kafka, Postgres, Registry, ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.waiting import wait_until

AGAIN_SECONDS = 30
"""On a machine under load; measured on an idle one it takes one to three."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary, and a standby that it waits for at each commit."""
    primary, standby = Postgres(tmp_path / "one"), Postgres(tmp_path / "other")
    try:
        standby.follow(primary.start())
        with psycopg.connect(primary.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            in_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
            wait_until(lambda: connection.execute(in_sync).fetchone() == (1,), "the standby is synchronous")
        yield primary, standby
    except ServiceError as error:
        skip_or_fail(error)
    finally:
        primary.stop()
        standby.stop()


def port_of(server: Postgres) -> int:
    """Of the server."""
    return int(server.url.rsplit(":", 1)[1].split("/")[0])


def promote(server: Postgres) -> None:
    """Make the standby the primary."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote(wait_seconds => 60)").fetchone() == (True,)


def accepted_until(load: LoadGenerator, count: int) -> None:
    """Wait until so many more were accepted."""
    wanted = len(load.accepted) + count
    wait_until(lambda: len(load.accepted) >= wanted, "the load is on")


@pytest.mark.parametrize("end", ["stopped", "killed"])
@pytest.mark.parametrize("address", ["both hosts", "moves"])
def test_switchover_under_load(
    address: str,
    end: str,
    servers: tuple[Postgres, Postgres],
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    tmp_path: Path,
    deployments: list[Deployment],
) -> None:
    """Web and relay are on again by themselves; nothing is lost, doubled or out of order.

    The old primary is back as a standby, at the old address, before the address leads to the new one: web and
    relay meet a server that takes no writes, and must not keep its sessions.
    """
    primary, standby = servers
    database = primary.create_database("outbox")
    migrate(database.replace("postgresql://", "postgresql+psycopg://"), 2)
    with closing(Proxy(port_of(primary))) as proxy:
        url = f"postgresql+psycopg://outbox@127.0.0.1:{proxy.port}/outbox"
        if address == "both hosts":
            hosts = "&".join(f"host=127.0.0.1:{port_of(server)}" for server in servers)
            url = f"postgresql+psycopg://outbox@/outbox?{hosts}"
        deployment = Deployment(
            url, settings_for(kafka, registry, url), {"bootstrap.servers": kafka.bootstrap_servers}, tmp_path
        )
        deployments.append(deployment)
        web, relay = deployment.web(), deployment.relay()
        load = LoadGenerator(lambda: web, senders=4)
        accepted_until(load, 50)
        primary.process.stop(signal.SIGINT) if end == "stopped" else primary.process.kill()
        promote(standby)
        began = monotonic()
        if address == "moves":
            primary.follow(standby)
            proxy.target_port = port_of(standby)
            proxy.cut()
            began = monotonic()
        accepted_until(load, 1)
        taken = monotonic() - began
        accepted_until(load, 50)
        ids = load.stop()
        deployment.engine.dispose()
        deployment.wait_drained()
        sent = monotonic() - began
        wait_until(lambda: not relay.degraded(), "nothing is degraded any more")
        print(f"{address}, {end}: taken again after {taken:.2f} s, all sent after {sent:.1f} s")  # noqa: T201
        deployment.check_exactly_once(ids)
        assert relay.running()
        assert taken < AGAIN_SECONDS
