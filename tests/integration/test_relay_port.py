"""The HTTP port of a running relay: who can reach it, and what a client can do to the relay through it."""

import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import create_connection

import psutil
import pytest
import requests

from config.settings import load
from outbox.db.engine import create_outbox_engine
from outbox.store import Store
from relay.health import Health
from relay.process.supervisor import Supervisor
from relay.settings import RelaySettings
from testkit.clock import ManualClock
from testkit.databases import NewDatabase
from testkit.deployment import Deployment, settings_for
from testkit.relay_process import RelayProcess
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Registry
from testkit.waiting import wait_until

NO_SERVICES = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9"}


def test_it_listens_on_localhost_and_requires_the_token(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """METRICS_TOKEN protects metrics and reasons, not health."""
    environ = {**NO_SERVICES, "DATABASE_URL": new_sqlite(), "METRICS_TOKEN": "a-token"}
    relay = RelayProcess(environ, tmp_path / "relay.log")
    base = f"http://127.0.0.1:{relay.metrics_port}"
    try:
        wait_until(lambda: relay.get("/healthz"), "it listens")
        listening = [
            c.laddr for c in psutil.Process(relay.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN
        ]
        assert [tuple(address) for address in listening] == [("127.0.0.1", relay.metrics_port)]
        assert requests.get(f"{base}/metrics", timeout=5).status_code == 401
        authorized = {"Authorization": "Bearer a-token"}
        assert "outbox_build_info" in requests.get(f"{base}/metrics", headers=authorized, timeout=5).text
        wait_until(lambda: requests.get(f"{base}/readyz", timeout=5).json()["degraded"], "a service is degraded")
        (anonymous,) = requests.get(f"{base}/readyz", timeout=5).json()["degraded"]
        (operator,) = requests.get(f"{base}/readyz", headers=authorized, timeout=5).json()["degraded"]
        assert set(anonymous) == {"subject"}
        assert set(operator) == {"subject", "reason"}
    finally:
        assert relay.stop() == 0


def test_hostile_connections_do_not_stop_the_relay(deployment: Deployment) -> None:
    """With a thousand half-open connections rows are sent, health answers, and descriptors and threads stay bounded."""
    relay = deployment.relay()
    wait_until(lambda: relay.get("/metrics"), "it serves metrics")
    ids = deployment.record(new_rows(10))
    deployment.wait_drained()
    process = psutil.Process(relay.pid)
    descriptors, threads = process.num_fds(), process.num_threads()
    with ExitStack() as stack:
        for _ in range(1000):
            connection = stack.enter_context(create_connection(("127.0.0.1", relay.metrics_port), timeout=10))
            with suppress(OSError):  # it is closed already
                connection.sendall(b"GET /metrics HTTP/1.1\r\nX-Half: ")
        ids += deployment.record(new_rows(100))
        deployment.wait_drained()
        assert relay.get("/healthz")
        assert process.num_fds() <= descriptors + 40
        assert process.num_threads() <= threads + 5
    deployment.check_exactly_once(ids)


def wait_for_loop(clock: ManualClock, health: Health) -> None:
    """Advance the clock, and wait until the relay's main loop has run since."""
    clock.now += 1000
    wait_until(lambda: health.liveness_age_seconds() == 0, "the main loop runs")


def run(environ: dict[str, str], health: Health) -> tuple[threading.Event, threading.Thread]:
    """A relay in a thread of this process."""
    stop = threading.Event()
    settings = load(RelaySettings, {**environ, "RELAY_METRICS_PORT": "0"})
    thread = threading.Thread(target=Supervisor(settings, stop, health=health).run)
    thread.start()
    return stop, thread


def test_the_main_loop_runs_while_services_are_down(new_sqlite: NewDatabase) -> None:
    """A relay that waits for its services at the start is alive; a restart would not help."""
    clock = ManualClock(0.0)
    health = Health(clock)
    stop, thread = run({**NO_SERVICES, "DATABASE_URL": new_sqlite()}, health)
    try:
        wait_until(health.conditions, "a service is degraded")
        wait_for_loop(clock, health)
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its clients end with its process
def test_the_main_loop_runs_while_shards_are_sent(
    new_sqlite: NewDatabase, kafka: Kafka | ExternalService, registry: Registry | ExternalService
) -> None:
    """``/healthz`` follows the loop that assigns shards."""
    environ = settings_for(kafka, registry, new_sqlite())
    engine = create_outbox_engine(environ["DATABASE_URL"])
    store, clock = Store(engine), ManualClock(0.0)
    health = Health(clock)
    stop, thread = run(environ, health)
    try:
        store.record(new_rows(10))
        wait_until(lambda: not store.status()[0].pending, "the rows are sent")
        wait_for_loop(clock, health)
        wait_for_loop(clock, health)
    finally:
        stop.set()
        thread.join(60)
        engine.dispose()
