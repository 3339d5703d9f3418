"""``python -m bench.inference [--calls N] [--rows N] [--rounds N] [--only calls|drain]``: inference in figures.

Calls: calls a second with an endpoint that answers after 5 ms, at default settings, beside the limit
(concurrency / latency) and beside a bare ``requests`` session in as many threads. Drain: a backlog with
scoring up and with scoring down, in alternating rounds. Sides of a ratio alternate within one run.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import requests
from prometheus_client import CollectorRegistry
from requests.adapters import HTTPAdapter
from sqlalchemy import Engine, text

from outbox.engine import create_outbox_engine
from outbox.leases import Leases
from outbox.store import Store
from relay.health import Health
from relay.inference import InferenceWorker
from relay.marks import Marks
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from relay.shard import ignore_steps
from tests.conftest import migrate
from tests.relay_process import RelayProcess
from tests.services import Given, Kafka, Postgres, Registry
from tests.services.process import free_port
from tests.support import new_rows, wait_until
from tests.world import settings_for

LATENCY_SECONDS = 0.005
CONCURRENCY = 16
"""The default of INFERENCE_CONCURRENCY."""
BATCH = 5_000


def serve(port: int) -> None:
    """An endpoint that answers after 5 ms, in a process of its own: plain sockets, so that it is cheap."""
    import selectors
    import socket

    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    listener.setblocking(False)
    selector, due = selectors.DefaultSelector(), queue.Queue[tuple[float, Any]]()
    selector.register(listener, selectors.EVENT_READ)
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    while True:
        left = due.queue[0][0] - time.monotonic() if due.queue else 1.0
        for key, _ in selector.select(max(0.0, left)):
            if key.fileobj is listener:
                connection, _address = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            peer: Any = key.fileobj
            data = _received(peer)
            if not data:
                selector.unregister(peer)
                peer.close()
            elif data.endswith(b"}"):  # head and body may come apart; the body ends the request
                due.put((time.monotonic() + LATENCY_SECONDS, peer))
        while due.queue and due.queue[0][0] <= time.monotonic():
            try:
                due.get()[1].sendall(answer)
            except OSError:
                continue


def _received(peer: Any) -> bytes:
    try:
        return bytes(peer.recv(65_536))
    except OSError:
        return b""


def main() -> None:
    """Run everything and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench.inference")
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--rows", type=int, default=100_000, help="backlog to drain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["calls", "drain"])
    options = parser.parse_args()
    folder, port = Path(tempfile.mkdtemp(prefix="outbox-bench-")), free_port()
    endpoint = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    endpoint.start()
    url = f"http://127.0.0.1:{port}/score"
    wait_until(lambda: _answers(port), "the endpoint answers")
    kafka, registry, postgres = _services(folder)
    report: dict[str, Any] = {"limit calls/s": CONCURRENCY / LATENCY_SECONDS}
    try:
        for kind in ("sqlite", "postgresql"):
            make = _maker(kind, folder, postgres)
            if options.only != "drain":
                report[f"calls {kind}"] = _calls(make, url, options.calls, options.rounds)
            if options.only != "calls":
                report[f"drain {kind}"] = _drain(kafka, registry, make, folder, url, options.rows, options.rounds)
    finally:
        for service in (kafka, registry, postgres):
            if not isinstance(service, Given):
                service.stop()
        endpoint.kill()
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _services(folder: Path) -> tuple[Any, Any, Any]:
    """Those that the environment names, as for the tests; the others are started."""
    names = ("KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL", "TEST_POSTGRES_URL")
    brokers, registry, postgres = (os.environ.get(name, "") for name in names)
    login = [os.environ.get(f"SCHEMA_REGISTRY_{name}", "") for name in ("USERNAME", "PASSWORD")]
    services = (
        Given("", brokers) if brokers else Kafka(folder / "kafka"),
        Given(registry, "", *login) if registry else Registry(folder / "registry"),
        Given(postgres) if postgres else Postgres(folder / "postgres"),
    )
    for service in services:
        if not isinstance(service, Given):
            service.start()
    return services


def _answers(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/score", b"{}")
        return connection.getresponse().status == 200
    except OSError:
        return False


def _maker(kind: str, folder: Path, postgres: Any) -> Callable[[], str]:
    """Makes migrated databases with one shard."""

    def make() -> str:
        name = f"bench_{uuid.uuid4().hex[:8]}"
        url = f"sqlite:///{folder}/{name}.db" if kind == "sqlite" else postgres.create_database(name)
        migrate(url, 1)
        return str(url).replace("postgresql://", "postgresql+psycopg://")

    return make


def _fill(engine: Engine, count: int) -> None:
    for _ in range(0, count, BATCH):
        Store(engine).record(new_rows(min(BATCH, count), interactions=500))


def _calls(make: Callable[[], str], url: str, count: int, rounds: int) -> dict[str, Any]:
    ours, bare = [], []
    for _ in range(rounds):
        engine = create_outbox_engine(make())
        _fill(engine, count)
        lease = Leases(engine, "bench", 600).take(0)
        assert lease is not None
        refs = [row.ref for row in Store(engine).pending(lease, count)]
        Store(engine).mark_sent(0, 1, refs, inference=True)
        ours.append(_stage_rate(engine, url, len(refs)))
        bare.append(_bare_rate(url, count))
        engine.dispose()
    return compared("calls/s", ours, "bare requests calls/s", bare)


def _stage_rate(engine: Engine, url: str, count: int) -> float:
    settings = RelaySettings(
        kafka_bootstrap_servers="none", schema_registry_url="http://none", inference_url=url
    )  # fmt: skip
    stop, metrics = threading.Event(), RelayMetrics(CollectorRegistry())
    worker = InferenceWorker(settings, engine, "bench", stop, Health(), metrics, Marks(), ignore_steps)
    thread = threading.Thread(target=worker.run)
    began = time.monotonic()
    thread.start()
    wait_until(lambda: _done(engine) == count, "every call is done", 600)
    seconds = time.monotonic() - began
    stop.set()
    thread.join()
    return count / seconds


def _done(engine: Engine) -> int:
    time.sleep(0.1)  # asking is not to be what is measured
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM outbox_inference_call WHERE state = 'done'")
        return int(connection.execute(query).scalar_one())


def _bare_rate(url: str, count: int) -> float:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_maxsize=CONCURRENCY))

    def call(number: int) -> None:
        body = {"interactionId": f"i-{number}", "timestamp": number}
        assert session.post(url, json=body, headers={"Idempotency-Key": str(number)}, timeout=10).ok

    began = time.monotonic()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(call, range(count)))
    return count / (time.monotonic() - began)


def _drain(
    kafka: Any, registry: Any, make: Callable[[], str], folder: Path, url: str, count: int, rounds: int
) -> dict[str, Any]:
    up, down, memory, arrived = list[float](), list[float](), list[float](), list[int]()
    for _ in range(rounds):
        for rates, target in ((up, url), (down, f"http://127.0.0.1:{free_port()}/score")):
            database = make()
            engine = create_outbox_engine(database)
            _fill(engine, count)
            settings = {**settings_for(kafka, registry, database), "INFERENCE_URL": target}
            relay = RelayProcess(settings, folder / f"relay-{uuid.uuid4().hex[:6]}.log")
            wait_until(lambda: _settled(engine), "the first rows are sent", 120)  # noqa: B023 - called at once
            flowing, already = time.monotonic(), _settled(engine)
            wait_until(lambda: _settled(engine) * BATCH >= count, "it is drained", 600)  # noqa: B023 - as above
            rates.append((count - already * BATCH) / (time.monotonic() - flowing))
            memory.append(psutil.Process(relay.pid).memory_info().rss / 1e6)
            arrived.append(_done(engine))
            relay.stop()
            engine.dispose()
    figures = compared("rows/s, scoring up", up, "rows/s, scoring down", down)
    return {**figures, "relay MB at the end": round(max(memory)), "calls done by then": arrived}


def _settled(engine: Engine) -> int:
    time.sleep(0.02)
    (shard,) = Store(engine).status()
    return shard.settled


def compared(ours: str, our_rates: list[float], theirs: str, their_rates: list[float]) -> dict[str, Any]:
    """Medians of both sides, and of the ratio of each round."""
    ratios = [a / b for a, b in zip(our_rates, their_rates, strict=True)]
    return {
        ours: round(statistics.median(our_rates)),
        theirs: round(statistics.median(their_rates)),
        "ratio": {"median": round(statistics.median(ratios), 2), "of each round": [round(r, 2) for r in ratios]},
    }


if __name__ == "__main__":
    main()
