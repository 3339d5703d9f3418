"""``python -m bench [--what …] [--database …]``: where the figures come from.

drain, latency, ingest, growth, backlog, scale, shards, workers, soak, debezium: see the modules of these names
(shards: scale).
The sides of a ratio take turns within one run. Services that the environment names are used, as in the tests,
or else started; of those CPU is told, too.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import backlog, debezium, drain, growth, ingest, latency, scale, soak, workers
from bench.environment import BATCH, Environment, services
from bench.report import machine, table

SHARDS = {"sqlite": 1, "postgresql": 8}
"""What a fresh outbox has by default."""

Measure = Callable[[Environment, str, int, argparse.Namespace], dict[str, Any]]
WHAT: dict[str, Measure] = {
    "drain": lambda place, kind, shards, o: drain.measure(place, kind, o.rows, o.rounds, shards),
    "latency": lambda place, kind, shards, o: latency.measure(place, kind, shards, o.rates, o.seconds),
    "ingest": lambda place, kind, shards, o: ingest.measure(place, kind, shards, o.seconds, o.rounds, o.processes),
    "growth": lambda place, kind, shards, o: growth.measure(
        place, kind, o.rows, o.history, o.rounds, shards, o.seconds
    ),
    "backlog": lambda place, kind, shards, o: backlog.measure(place, kind, o.backlog, o.seconds, shards),
    "scale": lambda place, kind, shards, o: scale.measure(place, kind, o.rows, o.rounds, shards),
    "shards": lambda place, kind, _, o: scale.measure_shards(place, kind, o.rows, o.rounds),
    "workers": lambda place, kind, shards, o: workers.measure(place, kind, shards, o.rounds, o.seconds),
    "soak": lambda place, kind, shards, o: soak.measure(place, kind, shards, o.minutes, o.seconds, o.rate),
    "debezium": lambda place, kind, shards, o: debezium.measure(
        place, kind, o.rows, o.rounds, shards, o.rates, o.seconds
    ),
}
USUAL = ("drain", "latency", "ingest")
SMOKE = ("drain", "growth", "ingest")
"""What uses most of the bench for the least CPU: growth takes latencies as well."""


def main() -> None:
    """Run what is asked for, print one JSON document, and a table beside it."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="outbox-bench-"))
    results: dict[str, Any] = {"machine": machine(), "options": {**vars(options), "batch": BATCH}}
    try:
        with services(folder) as found:
            place = Environment(*found, folder)
            for kind in options.database:
                for what in options.what:
                    name = f"{what} {kind}"
                    results[name] = WHAT[what](place, kind, options.shards or SHARDS[kind], options)
                    sys.stderr.write(table({name: results[name]}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.write(json.dumps(results, indent=2) + "\n")  # what is there, also of a run that ended early


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(USUAL))
    parser.add_argument("--database", nargs="+", choices=SHARDS, default=list(SHARDS))
    parser.add_argument("--rows", type=int, default=200_000, help="backlog to drain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load, a side and round")
    parser.add_argument("--rates", nargs="+", type=int, default=[100, 1_000], help="of latency and debezium, a second")
    parser.add_argument("--processes", type=int, default=2, help="of ingest, gunicorn's on every side")
    parser.add_argument("--history", nargs="+", type=int, default=[0, 1_000_000], help="of growth, rows sent before")
    parser.add_argument("--backlog", nargs="+", type=int, default=[1_000_000], help="of backlog, rows that wait")
    parser.add_argument("--minutes", type=float, default=30.0, help="of soak")
    parser.add_argument("--rate", type=float, help="of soak, requests a second, instead of half the limit")
    parser.add_argument("--shards", type=int, help="instead of 1 on SQLite and 8 on PostgreSQL")
    parser.add_argument("--smoke", action="store_true", help="a few topics, small: for crashes, not times")
    options = parser.parse_args()
    if options.smoke:
        options.what = list(SMOKE)
        options.rows, options.rounds, options.seconds = 1_000, 1, 0.3
        options.history, options.processes = [1_000], 1
    return options


if __name__ == "__main__":
    main()
