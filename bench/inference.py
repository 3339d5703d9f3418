"""``python -m bench.inference [--only calls|drain|return|memory] …``: inference in figures.

calls: calls a second with an endpoint that answers after 5 ms, at default settings, beside the limit
(concurrency / latency) and beside a bare ``requests`` session in as many threads. drain: a backlog with
scoring up and with scoring down, in alternating order. return: a backlog drained while scoring is down; then it
comes back, and every call has to arrive. memory: a relay while very many calls are due. Sides of a ratio
alternate within one run.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import requests
from prometheus_client import CollectorRegistry
from requests.adapters import HTTPAdapter
from sqlalchemy import Engine, text

from bench.due_calls import arrival, memory
from bench.report import ratio, spread
from bench.scoring import LATENCY_SECONDS, Scoring
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

WHAT = ("calls", "drain", "return", "memory")
KINDS = ("sqlite", "postgresql")
CONCURRENCY = 16
"""The default of INFERENCE_CONCURRENCY."""
BATCH = 5_000


def main() -> None:
    """Run everything and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench.inference")
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--rows", type=int, default=100_000, help="backlog to drain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--due", type=int, default=2_000_000, help="calls due, for memory")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part of memory")
    parser.add_argument("--only", choices=WHAT)
    parser.add_argument("--database", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    folder, scoring = Path(tempfile.mkdtemp(prefix="outbox-bench-")), Scoring()
    scoring.start()
    services = _services(folder)
    report: dict[str, Any] = {"limit calls/s": CONCURRENCY / LATENCY_SECONDS}
    try:
        for kind in options.database:
            place = Place(*services, folder, kind)
            for what in WHAT:
                if options.only in (None, what):
                    report[f"{what} {kind}"] = _measure(what, place, scoring, options)
    finally:
        for service in services:
            if not isinstance(service, Given):
                service.stop()
        scoring.stop()
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


class Place(NamedTuple):
    """Where it is measured."""

    kafka: Any
    registry: Any
    postgres: Any
    folder: Path
    kind: str

    def database(self) -> str:
        """A fresh, migrated database with one shard."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        sqlite = f"sqlite:///{self.folder}/{name}.db"
        url = sqlite if self.kind == "sqlite" else self.postgres.create_database(name)
        migrate(url, 1)
        return str(url).replace("postgresql://", "postgresql+psycopg://")

    def relay(self, url: str, inference_url: str) -> RelayProcess:
        """A relay on that database, with topics of its own."""
        settings = {**settings_for(self.kafka, self.registry, url), "INFERENCE_URL": inference_url}
        return RelayProcess(settings, self.folder / f"relay-{uuid.uuid4().hex[:6]}.log")


def _measure(what: str, place: Place, scoring: Scoring, options: argparse.Namespace) -> dict[str, Any]:
    if what == "calls":
        return _calls(place, scoring.url, options.calls, options.rounds)
    if what == "drain":
        return _drain(place, scoring.url, options.rows, options.rounds)
    if what == "return":
        return arrival(place.database(), place.relay, new_rows(options.rows, interactions=500), BATCH)
    return memory(place.database(), place.relay, options.due, options.seconds)


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


def _fill(engine: Engine, count: int) -> None:
    for _ in range(0, count, BATCH):
        Store(engine).record(new_rows(min(BATCH, count), interactions=500))


def _calls(place: Place, url: str, count: int, rounds: int) -> dict[str, Any]:
    ours, bare = [], []
    for _ in range(rounds):
        engine = create_outbox_engine(place.database())
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


def _drain(place: Place, url: str, count: int, rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"up": [], "down": []}
    memory_mb, arrived = list[float](), list[int]()
    for number in range(rounds):
        for side in ("up", "down") if number % 2 == 0 else ("down", "up"):
            database = place.database()
            engine = create_outbox_engine(database)
            _fill(engine, count)
            relay = place.relay(database, url if side == "up" else f"http://127.0.0.1:{free_port()}/score")
            wait_until(lambda: _settled(engine), "the first rows are sent", 120)  # noqa: B023 - called at once
            flowing, already = time.monotonic(), _settled(engine)
            wait_until(lambda: _settled(engine) * BATCH >= count, "it is drained", 600)  # noqa: B023 - as above
            rates[side].append((count - already * BATCH) / (time.monotonic() - flowing))
            memory_mb.append(psutil.Process(relay.pid).memory_info().rss / 1e6)
            arrived.append(_done(engine))
            relay.stop()
            engine.dispose()
    figures = compared("rows/s, scoring up", rates["up"], "rows/s, scoring down", rates["down"])
    return {**figures, "relay MB at the end": round(max(memory_mb)), "calls done by then": arrived}


def _settled(engine: Engine) -> int:
    time.sleep(0.02)
    (shard,) = Store(engine).status()
    return shard.settled


def compared(ours: str, our_rates: list[float], theirs: str, their_rates: list[float]) -> dict[str, Any]:
    """Both sides, and the ratio of each round."""
    ratios = [round(a / b, 2) for a, b in zip(our_rates, their_rates, strict=True)]
    return {
        ours: spread(our_rates),
        theirs: spread(their_rates),
        "ratio": {**ratio(our_rates, their_rates), "of each round": ratios},
    }


if __name__ == "__main__":
    main()
