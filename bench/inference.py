"""``python -m bench.inference [--only calls|drain|return|memory] …``: measure inference calls.

calls: calls a second to an endpoint that answers after 5 ms, with default settings, compared with the maximum
(concurrency / latency) and with a ``requests`` session in as many threads. drain: a backlog with the scoring
endpoint up and down. return: a backlog is drained while the endpoint is down; it then starts, and every call must
arrive. memory: a relay while many calls are due. Compared sides alternate within one run.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from prometheus_client import CollectorRegistry
from requests.adapters import HTTPAdapter
from sqlalchemy import Engine

from bench.drain import drain
from bench.due_calls import arrival, calls_done, memory, with_inference
from bench.environment import Environment, fill, open_environment
from bench.report import ratio, spread
from bench.scoring import LATENCY_SECONDS, ScoringEndpoint
from outbox.leases import Leases
from outbox.models import RecordRef
from outbox.store import Store
from relay.demo.ports import free_port
from relay.drain_signal import DrainSignal
from relay.health import Health
from relay.inference.worker import InferenceWorker
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from relay.shard.services import ignore_steps
from testkit.waiting import wait_until

BENCHMARKS = ("calls", "drain", "return", "memory")
DATABASES = ("sqlite", "postgresql")
CONCURRENCY = 16
"""Default of ``INFERENCE_CONCURRENCY``."""


def main() -> None:
    """Run the benchmarks and print a JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench.inference")
    parser.add_argument("--calls", type=int, default=5_000, help="calls: number of calls (default: %(default)s)")
    parser.add_argument(
        "--rows", type=int, default=100_000, help="drain, return: rows of the backlog (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of calls and drain (default: %(default)s)")
    parser.add_argument("--due", type=int, default=2_000_000, help="memory: calls due (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="memory: seconds of each part (default: %(default)s)"
    )
    parser.add_argument("--only", choices=BENCHMARKS, help="run one benchmark only (default: all)")
    parser.add_argument(
        "--database", nargs="+", choices=DATABASES, default=list(DATABASES), help="databases to run on (default: both)"
    )
    options = parser.parse_args()
    folder, scoring = Path(tempfile.mkdtemp(prefix="outbox-bench-")), ScoringEndpoint()
    scoring.start()
    report: dict[str, Any] = {"maximum calls/s": CONCURRENCY / LATENCY_SECONDS}
    try:
        with open_environment(folder) as environment:
            for database in options.database:
                for what in BENCHMARKS:
                    if options.only in (None, what):
                        report[f"{what} {database}"] = _measure(what, environment, database, scoring.url, options)
    finally:
        scoring.stop()
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _measure(
    what: str, environment: Environment, database: str, url: str, options: argparse.Namespace
) -> dict[str, Any]:
    if what == "calls":
        return _calls(environment, database, url, options.calls, options.rounds)
    if what == "drain":
        return _drains(environment, database, url, options.rows, options.rounds)
    if what == "return":
        return arrival(environment, database, options.rows)
    return memory(environment, database, options.due, options.seconds)


def _calls(environment: Environment, database: str, url: str, count: int, rounds: int) -> dict[str, Any]:
    ours, plain = [], []
    for _ in range(rounds):
        with environment.outbox(database, 1) as outbox:
            fill(outbox.engine, count)
            lease = Leases(outbox.engine, "bench", 600).take(0)
            assert lease is not None
            refs = [row.ref for row in Store(outbox.engine).pending(lease, count)]
            Store(outbox.engine).mark_sent(lease, RecordRef(1, 0, ""), refs, inference=True)
            ours.append(_worker_rate(outbox.engine, url, len(refs)))
        plain.append(_session_rate(url, count))
    return compare("calls/s", ours, "plain requests session, calls/s", plain)


def _worker_rate(engine: Engine, url: str, count: int) -> float:
    settings = RelaySettings(
        kafka_bootstrap_servers="none", schema_registry_url="http://none", inference_url=url
    )  # fmt: skip
    stop, metrics = threading.Event(), RelayMetrics(CollectorRegistry())
    worker = InferenceWorker(settings, engine, "bench", stop, Health(), metrics, DrainSignal(), ignore_steps)
    thread = threading.Thread(target=worker.run)
    began = time.monotonic()
    thread.start()
    wait_until(lambda: calls_done(engine) == count, "every call is done", 600)
    seconds = time.monotonic() - began
    stop.set()
    thread.join()
    return count / seconds


def _session_rate(url: str, count: int) -> float:
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


def _drains(environment: Environment, database: str, url: str, count: int, rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"up": [], "down": []}
    memory_mb, calls = list[float](), list[int]()
    for number in range(rounds):
        for side in ("up", "down") if number % 2 == 0 else ("down", "up"):
            with environment.outbox(database, 1) as outbox:
                fill(outbox.engine, count)
                endpoint = url if side == "up" else f"http://127.0.0.1:{free_port()}/score"
                rate, cost = drain(environment, with_inference(outbox, endpoint), count)
                rates[side].append(rate)
                memory_mb.append(cost["relay memory MB"])
                calls.append(calls_done(outbox.engine))
    figures = compare("rows/s, scoring up", rates["up"], "rows/s, scoring down", rates["down"])
    return {**figures, "relay memory MB": round(max(memory_mb)), "calls done at the end of the drain": calls}


def compare(ours: str, our_rates: list[float], theirs: str, their_rates: list[float]) -> dict[str, Any]:
    """Return the figures of both sides, and the ratio of each round."""
    ratios = [round(a / b, 2) for a, b in zip(our_rates, their_rates, strict=True)]
    return {
        ours: spread(our_rates),
        theirs: spread(their_rates),
        "ratio": {**ratio(our_rates, their_rates), "each round": ratios},
    }


if __name__ == "__main__":
    main()
