"""A PostgreSQL primary stops under load, its synchronous standby is promoted, and it returns as the standby."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

import pytest

from testkit.databases import migrate
from testkit.deployment import Deploy
from testkit.load import LoadGenerator
from testkit.proxy import Proxy
from testkit.services import ExternalService, Kafka, Postgres, ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.waiting import wait_until

RECOVERY_SECONDS = 30
"""Limit for a loaded machine; an idle one needs one to three seconds."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its synchronous standby."""
    primary, standby = Postgres(tmp_path / "one"), Postgres(tmp_path / "other")
    try:
        standby.follow(primary.start())
        primary.require_standby()
        wait_until(primary.has_standby, "the standby is synchronous")
        yield primary, standby
    except ServiceError as error:
        skip_or_fail(error)
    finally:
        primary.stop()
        standby.stop()


@contextmanager
def database_address(kind: str, servers: tuple[Postgres, Postgres]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the URL that the product uses, and a function that moves it from the primary to the standby.

    Args:
        kind: "both hosts" names both servers in the URL; "moves" is an address that leads to one at a time.
        servers: the primary and the standby.
    """
    primary, standby = servers
    if kind == "both hosts":
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in servers)
        yield f"postgresql+psycopg://outbox@/outbox?{hosts}", lambda: None
        return
    with closing(Proxy(primary.port)) as proxy:

        def move() -> None:
            primary.follow(standby)
            proxy.target_port = standby.port
            proxy.cut()

        yield f"postgresql+psycopg://outbox@127.0.0.1:{proxy.port}/outbox", move


@pytest.mark.parametrize("end", ["stopped", "killed"])
@pytest.mark.parametrize("address", ["both hosts", "moves"])
def test_switchover_under_load(
    address: str,
    end: str,
    servers: tuple[Postgres, Postgres],
    kafka: Kafka | ExternalService,
    deploy: Deploy,
) -> None:
    """Web and relay recover by themselves; no row is lost, duplicated or out of order.

    Where the address moves, the old primary is a read-only standby before the address leads to the new primary:
    web and relay must not keep sessions to it.
    """
    primary, standby = servers
    database = primary.create_database("outbox")
    migrate(database.replace("postgresql://", "postgresql+psycopg://"), 2)
    with database_address(address, servers) as (url, move_address):
        deployment = deploy(url, kafka)
        web, relay = deployment.web(), deployment.relay()
        load = LoadGenerator(lambda: web, senders=4)
        load.wait_for_accepted(50)
        primary.process.stop(signal.SIGINT) if end == "stopped" else primary.process.kill()
        standby.promote()
        move_address()
        began = monotonic()
        load.wait_for_accepted(1)
        recovered_after = monotonic() - began
        load.wait_for_accepted(50)
        ids = load.stop()
        deployment.engine.dispose()
        deployment.wait_drained()
        wait_until(lambda: not relay.degraded(), "nothing is degraded")
        deployment.check_exactly_once(ids)
        assert relay.running()
        assert recovered_after < RECOVERY_SECONDS
