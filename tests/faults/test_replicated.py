"""A PostgreSQL primary with a synchronous standby: what is answered while commits are not acknowledged."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import inf
from pathlib import Path

import psycopg
import pytest

from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError
from outbox.leases import Leases
from outbox.models import Accepted, NewRow
from outbox.store import Store
from testkit.databases import migrate
from testkit.proxied_services import ProxiedKafka, restart_service
from testkit.replicated_postgres import ReplicatedPostgres
from testkit.rows import new_row
from testkit.services import ExternalService, Registry, ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.waiting import wait_until
from tests.faults.outcome import markdown_table
from tests.faults.replicated import product_on
from tests.faults.system import RELAYS
from tests.faults.torture import inject_faults

SEED = 1166
INJECTED = {"primary frozen, standby promoted, primary resumed", "disk full", "standby lost"}
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture(scope="module")
def replicated_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicatedPostgres]:
    """A primary and its synchronous standby."""
    postgres = ReplicatedPostgres(tmp_path_factory.mktemp("replicated"))
    try:
        yield postgres.start()
    except ServiceError as error:
        skip_or_fail(error)
    finally:
        postgres.stop()


@pytest.fixture(scope="module")
def url(replicated_postgres: ReplicatedPostgres) -> str:
    """URL of a migrated database, which names both servers."""
    name = f"outbox_{uuid.uuid4().hex[:8]}"
    replicated_postgres.primary.create_database(name)
    url = replicated_postgres.direct_url(name)
    migrate(url, 1)
    return url


def end_wait(function: str) -> Callable[[ReplicatedPostgres], None]:
    """Return what cancels commits that wait for the standby, or terminates their sessions."""

    def end(postgres: ReplicatedPostgres) -> None:
        with psycopg.connect(postgres.primary.url, autocommit=True) as connection:
            waiting = wait_until(lambda: connection.execute(WAITING).fetchall(), "a commit waits for the standby")
            for (pid,) in waiting:
                connection.execute(f"SELECT {function}(%s)", [pid])

    return end


def restart_primary(postgres: ReplicatedPostgres) -> None:
    """Kill (-9) the primary while a commit waits for the standby, and restart it."""
    with psycopg.connect(postgres.primary.url, autocommit=True) as connection:
        wait_until(lambda: connection.execute(WAITING).fetchall(), "a commit waits for the standby")
    postgres.primary.kill()
    restart_service(postgres.primary.start)


def accepted(store: Store, row: NewRow) -> Accepted | None:
    """Deliver a row; return the outcome if it is accepted, and None if the database is unavailable."""
    with suppress(DatabaseUnavailableError):
        (outcome,) = store.record([row])
        assert isinstance(outcome, Accepted)
        return outcome
    return None


@pytest.mark.parametrize(
    "end",
    [end_wait("pg_cancel_backend"), end_wait("pg_terminate_backend"), restart_primary],
    ids=["cancelled", "terminated", "primary restarted"],
)
def test_no_row_is_accepted_that_only_the_primary_has(
    end: Callable[[ReplicatedPostgres], None], replicated_postgres: ReplicatedPostgres, url: str
) -> None:
    """While the standby is lost, no delivery of a row is answered "accepted", even if the row is visible already.

    A commit whose wait ends without an acknowledgement is visible on the primary, and lost with it.
    """
    engine = create_outbox_engine(url, answer_seconds=1)
    store, row = Store(engine), new_row()
    assert wait_until(lambda: accepted(store, new_row()), "a row is accepted")
    with replicated_postgres.without_standby():
        with ThreadPoolExecutor() as threads:
            first = threads.submit(accepted, store, row)
            end(replicated_postgres)
            assert first.result() is None
        assert accepted(store, row) is None
    outcome = wait_until(lambda: accepted(store, row), "the row is accepted")
    with engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT id FROM outbox WHERE key = %s", (row.key,)).scalars().all()
    assert stored == [outcome.outbox_id]
    engine.dispose()


def test_a_relay_selects_no_row_that_only_the_primary_has(replicated_postgres: ReplicatedPostgres, url: str) -> None:
    """After a crash of the primary, rows are selected only when the standby has what the crash made visible."""
    engine = create_outbox_engine(url, answer_seconds=1)
    store, leases = Store(engine), Leases(engine, "a relay", 600)
    lease = wait_until(lambda: leases.take(0), "the shard is taken")
    before = [row.ref for row in store.pending(lease, 1000)]
    with replicated_postgres.without_standby():
        with ThreadPoolExecutor() as threads:
            row = threads.submit(accepted, store, new_row())
            restart_primary(replicated_postgres)
            assert row.result() is None
        with pytest.raises(DatabaseUnavailableError):
            store.pending(lease, 1000)
    engine.dispose()
    assert len(store.pending(lease, 1000)) == len(before) + 1
    engine.dispose()


@pytest.mark.timeout(900)
def test_faults_of_a_replicated_database_under_load(
    replicated_postgres: ReplicatedPostgres,
    proxied_kafka: ProxiedKafka,
    registry: Registry | ExternalService,
    tmp_path: Path,
) -> None:
    """No interaction answered with 202 is lost, duplicated or out of order, and nothing has to be restarted.

    The old primary runs again after the standby was promoted, the disk is full, and the standby is lost.
    """
    progress: list[str] = []
    with product_on(replicated_postgres, proxied_kafka, registry, tmp_path, RELAYS) as system:
        faults = [(fault,) for fault in system.faults if fault.name in INJECTED]
        *by_fault, total = inject_faults(system, SEED, inf, progress.append, faults)
    outcome = f"{''.join(progress)}\n{markdown_table([*by_fault, total])}"
    assert {each.fault for each in by_fault} == INJECTED, outcome
    assert total.exact, outcome
    assert total.rows > 100, outcome
