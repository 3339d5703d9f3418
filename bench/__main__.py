"""``python -m bench [--what …] [--database …]``: where the figures come from.

drain, latency, growth, scale: see the modules of these names. ingest: the webhook under gunicorn, beside a
bare Flask route under the same settings. The two sides of a ratio take turns within one run.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench import drain, growth, latency, scale
from bench.bare import BODY
from bench.place import BATCH, Place
from bench.report import machine, table
from tests.conftest import ROOT, migrate
from tests.services import Kafka, Postgres, Registry
from tests.services.process import free_port
from tests.support import wait_until
from tests.web_process import PATH, SECRET, WebProcess

SHARDS = {"sqlite": 1, "postgresql": 8}
"""What a fresh outbox has by default."""
WHAT = ("drain", "latency", "growth", "scale", "ingest")


def main() -> None:
    """Run what is asked for, print one JSON document, and a table beside it."""
    options = _options()
    place = _start(Path(tempfile.mkdtemp(prefix="outbox-bench-")))
    told = {name: getattr(options, name) for name in ("rows", "rounds", "seconds")}
    results: dict[str, Any] = {"machine": machine(), "options": {**told, "batch": BATCH}}
    try:
        for kind in options.database:
            for what in options.what:
                results[f"{what} {kind}"] = _measure(what, kind, place, options)
                sys.stderr.write(table({f"{what} {kind}": results[f"{what} {kind}"]}))
    finally:
        for service in (place.kafka, place.registry, place.postgres):
            service.stop()
        shutil.rmtree(place.folder, ignore_errors=True)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=["drain", "latency", "ingest"])
    parser.add_argument("--database", nargs="+", choices=SHARDS, default=list(SHARDS))
    parser.add_argument("--rows", type=int, default=200_000, help="backlog to drain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load, a side and round")
    parser.add_argument("--rates", nargs="+", type=int, default=[100, 1_000], help="of latency, requests a second")
    parser.add_argument("--history", nargs="+", type=int, default=[0, 1_000_000], help="of growth, rows sent before")
    parser.add_argument("--shards", type=int, help="instead of 1 on SQLite and 8 on PostgreSQL")
    parser.add_argument("--smoke", action="store_true", help="drain, latency, growth, small: for crashes, not times")
    options = parser.parse_args()
    if options.smoke:
        options.what, options.rows, options.rounds, options.seconds = ["drain", "latency", "growth"], 5_000, 1, 1
        options.rates, options.history = [20], [1_000]
    return options


def _start(folder: Path) -> Place:
    kafka, registry, postgres = Kafka(folder / "kafka"), Registry(folder / "registry"), Postgres(folder / "postgres")
    for service in (kafka, registry, postgres):
        service.start()

    def make(kind: str, shards: int) -> str:
        return _maker(kind, folder, postgres, shards)()

    return Place(kafka, registry, postgres, folder, make)


def _measure(what: str, kind: str, place: Place, options: argparse.Namespace) -> dict[str, Any]:
    shards = options.shards or SHARDS[kind]
    if what == "drain":
        return drain.measure(place, kind, options.rows, options.rounds, shards)
    if what == "latency":
        return latency.measure(place, kind, shards, options.rates, options.seconds)
    if what == "growth":
        return growth.measure(place, kind, options.rows, options.history, options.rounds, shards)
    if what == "scale":
        return scale.measure(place, kind, options.rows, options.rounds, shards)
    return _ingest(_maker(kind, place.folder, place.postgres), place.folder, options.seconds, options.rounds)


def _maker(kind: str, folder: Path, postgres: Postgres, shards: int = 1) -> Callable[[], str]:
    """Makes migrated databases."""

    def make() -> str:
        name = f"bench_{uuid.uuid4().hex[:8]}"
        url = f"sqlite:///{folder}/{name}.db" if kind == "sqlite" else postgres.create_database(name)
        migrate(url, shards)
        return url.replace("postgresql://", "postgresql+psycopg://")

    return make


def _ingest(make: Callable[[], str], folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    environ = {"WEB_CONCURRENCY": "2", "WEB_THREADS": "16", "LOG_LEVEL": "WARNING"}
    web = WebProcess({**environ, "DATABASE_URL": make()}, folder / "web.log")
    port = free_port()
    bare_environ = {**os.environ, "CXONE_WEBHOOK_SECRETS": SECRET * 2, **environ, "PORT": str(port)}
    bare_environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="bare-metrics-")
    bare = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "bench.bare:app"],
        cwd=ROOT,
        env={**bare_environ, "WEB_HOST": "127.0.0.1"},
        stderr=subprocess.DEVNULL,
    )
    webhook, route = [], []
    try:
        wait_until(lambda: _answers(port), "the bare route answers")
        for _ in range(rounds):
            webhook.append(_load(web.port, seconds))
            route.append(_load(port, seconds))
    finally:
        web.stop()
        bare.terminate()
        bare.wait()
    return _compared("webhook requests/s", webhook, "bare Flask route requests/s", route)


def _answers(port: int) -> bool:
    try:
        return _post(HTTPConnection("127.0.0.1", port, timeout=5), 0) == 202
    except OSError:
        return False


def _post(connection: HTTPConnection, number: int) -> int:
    headers = {"X-CXone-Webhook-Secret": SECRET, "Content-Type": "application/json"}
    connection.request("POST", PATH, BODY % (number, os.getpid()), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _load(port: int, seconds: float, senders: int = 16) -> float:
    """Requests a second answered 202, with this many senders in two processes."""
    with multiprocessing.Pool(2) as pool:
        counts = pool.starmap(_send, [(port, seconds, senders // 2)] * 2)
    return sum(counts) / seconds


def _send(port: int, seconds: float, senders: int) -> int:
    from concurrent.futures import ThreadPoolExecutor

    deadline = time.monotonic() + seconds

    def sender(_number: int) -> int:
        connection, done = HTTPConnection("127.0.0.1", port, timeout=30), 0
        while time.monotonic() < deadline:
            assert _post(connection, time.monotonic_ns()) == 202
            done += 1
        return done

    with ThreadPoolExecutor(senders) as pool:
        return sum(pool.map(sender, range(senders)))


def _compared(ours: str, our_rates: list[float], theirs: str, their_rates: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(our_rates, their_rates, strict=True)]
    told = {ours: our_rates, theirs: their_rates}
    figures: dict[str, Any] = {
        name: {"median": round(statistics.median(v)), "spread": [round(min(v)), round(max(v))]}
        for name, v in told.items()
    }
    return {
        **figures,
        "ratio": {"median": round(statistics.median(ratios), 2), "of each round": [round(r, 2) for r in ratios]},
    }


if __name__ == "__main__":
    main()
