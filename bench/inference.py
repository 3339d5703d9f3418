"""``python -m bench.inference [--only calls|drain|return|memory] …``: inference in figures.

calls: calls a second with an endpoint that answers after 5 ms, at default settings, beside the limit
(concurrency / latency) and beside a bare ``requests`` session in as many threads. drain: a backlog with
scoring up and with scoring down, in alternating order. return: a backlog drained while scoring is down; then it
comes back, and every call has to arrive. memory: a relay while very many calls are due. Sides of a ratio
alternate within one run.
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
from bench.environment import Environment, fill, services
from bench.report import ratio, spread
from bench.scoring import LATENCY_SECONDS, Scoring
from outbox.leases import Leases
from outbox.models import RecordRef
from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.health import Health
from relay.inference.worker import InferenceWorker
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from relay.shard.services import ignore_steps
from testkit.services.process import free_port
from testkit.waiting import wait_until

WHAT = ("calls", "drain", "return", "memory")
KINDS = ("sqlite", "postgresql")
CONCURRENCY = 16
"""The default of INFERENCE_CONCURRENCY."""


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
    report: dict[str, Any] = {"limit calls/s": CONCURRENCY / LATENCY_SECONDS}
    try:
        with services(folder) as found:
            place = Environment(*found, folder)
            for kind in options.database:
                for what in WHAT:
                    if options.only in (None, what):
                        report[f"{what} {kind}"] = _measure(what, place, kind, scoring.url, options)
    finally:
        scoring.stop()
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _measure(what: str, place: Environment, kind: str, url: str, options: argparse.Namespace) -> dict[str, Any]:
    if what == "calls":
        return _calls(place, kind, url, options.calls, options.rounds)
    if what == "drain":
        return _drains(place, kind, url, options.rows, options.rounds)
    if what == "return":
        return arrival(place, kind, options.rows)
    return memory(place, kind, options.due, options.seconds)


def _calls(place: Environment, kind: str, url: str, count: int, rounds: int) -> dict[str, Any]:
    ours, bare = [], []
    for _ in range(rounds):
        with place.outbox(kind, 1) as outbox:
            fill(outbox.engine, count)
            lease = Leases(outbox.engine, "bench", 600).take(0)
            assert lease is not None
            refs = [row.ref for row in Store(outbox.engine).pending(lease, count)]
            Store(outbox.engine).mark_sent(lease, RecordRef(1, 0, ""), refs, inference=True)
            ours.append(_stage_rate(outbox.engine, url, len(refs)))
        bare.append(_bare_rate(url, count))
    return compared("calls/s", ours, "bare requests calls/s", bare)


def _stage_rate(engine: Engine, url: str, count: int) -> float:
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


def _drains(place: Environment, kind: str, url: str, count: int, rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"up": [], "down": []}
    memory_mb, made = list[float](), list[int]()
    for number in range(rounds):
        for side in ("up", "down") if number % 2 == 0 else ("down", "up"):
            with place.outbox(kind, 1) as outbox:
                fill(outbox.engine, count)
                where = url if side == "up" else f"http://127.0.0.1:{free_port()}/score"
                rate, cost = drain(place, with_inference(outbox, where), count)
                rates[side].append(rate)
                memory_mb.append(cost["relay memory MB"])
                made.append(calls_done(outbox.engine))
    figures = compared("rows/s, scoring up", rates["up"], "rows/s, scoring down", rates["down"])
    return {**figures, "relay memory MB": round(max(memory_mb)), "calls done by the relay's end": made}


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
