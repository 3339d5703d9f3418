"""``python -m bench [--what …] [--database …]``: measure the product.

Prints a JSON document on stdout and a table on stderr. Services that environment variables name are used, as in the
tests; the others are started, and their CPU time is reported as well. Where two sides are compared, they
alternate within one run.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench import backlog, debezium, drain, growth, ingest, latency, mark, metrics, scale, soak, traces, verify, workers
from bench.environment import BATCH, Environment, open_environment
from bench.report import machine, table
from config.settings import DEFAULT_SHARDS

DATABASES = ("sqlite", "postgresql")


class Benchmark(NamedTuple):
    """One benchmark."""

    summary: str
    measure: Callable[[Environment, str, int, argparse.Namespace], dict[str, Any]]
    """Takes the environment, the kind of database, the number of shards and the options."""


BENCHMARKS = {
    "drain": Benchmark(
        "rows/s of a backlog to Kafka, compared with a raw producer",
        lambda env, db, shards, o: drain.measure(env, db, o.rows, o.rounds, shards),
    ),
    "latency": Benchmark(
        "time from the webhook's answer to the record at a consumer",
        lambda env, db, shards, o: latency.measure(env, db, shards, o.rates, o.seconds),
    ),
    "ingest": Benchmark(
        "requests/s of the webhook, compared with simpler applications",
        lambda env, db, shards, o: ingest.measure(env, db, shards, o.seconds, o.rounds, o.processes),
    ),
    "growth": Benchmark(
        "latency and drain with a long history of sent rows",
        lambda env, db, shards, o: growth.measure(env, db, o.rows, o.history, o.rounds, shards, o.seconds),
    ),
    "mark": Benchmark(
        "what the database spends to insert, select, mark and prune a row",
        lambda env, db, shards, o: mark.measure(env, db, o.rows, o.history, o.rounds, shards),
    ),
    "backlog": Benchmark(
        "memory and start-up of a relay with a long backlog",
        lambda env, db, shards, o: backlog.measure(env, db, o.backlog, o.seconds, shards),
    ),
    "scale": Benchmark(
        "drain with 1, 2 and 4 relays",
        lambda env, db, shards, o: scale.measure(env, db, o.rows, o.rounds, shards),
    ),
    "shards": Benchmark(
        "drain with 1, 2, 4 and 8 shards",
        lambda env, db, _, o: scale.measure_shards(env, db, o.rows, o.rounds),
    ),
    "workers": Benchmark(
        "requests/s by number of web processes and threads",
        lambda env, db, shards, o: workers.measure(env, db, shards, o.rounds, o.seconds),
    ),
    "soak": Benchmark(
        "whether memory, files or tables grow in a long run",
        lambda env, db, shards, o: soak.measure(env, db, shards, o.minutes, o.seconds, o.rate),
    ),
    "traces": Benchmark(
        "what traces cost the webhook and a drain",
        lambda env, db, shards, o: traces.measure(env, db, o.rows, o.rounds, shards, o.seconds),
    ),
    "metrics": Benchmark(
        "what metrics cost the webhook and a drain",
        lambda env, db, shards, o: metrics.measure(env, db, o.rows, o.rounds, shards, o.seconds),
    ),
    "verify": Benchmark(
        "records/s and memory of relay verify",
        lambda env, db, shards, o: verify.measure(env, db, o.rows, o.rounds, shards, o.keep),
    ),
    "debezium": Benchmark(
        "drain and latency, compared with Debezium",
        lambda env, db, shards, o: debezium.measure(env, db, o.rows, o.rounds, shards, o.rates, o.seconds),
    ),
}
DEFAULT_BENCHMARKS = ("drain", "latency", "ingest")
SMOKE_BENCHMARKS = ("drain", "growth", "ingest", "verify")
"""These run most of the code for the least CPU; growth measures latency, too."""


def main() -> None:
    """Run the benchmarks and print the results, also those of a run that fails."""
    options = _parse_options()
    folder = Path(tempfile.mkdtemp(prefix="outbox-bench-"))
    results: dict[str, Any] = {"machine": machine(), "options": {**vars(options), "batch": BATCH}}
    try:
        with open_environment(folder) as environment:
            for database in options.database:
                for what in options.what:
                    name = f"{what} {database}"
                    results[name] = BENCHMARKS[what].measure(environment, database, options.shards, options)
                    sys.stderr.write(table({name: results[name]}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.write(json.dumps(results, indent=2, default=str) + "\n")


def _parse_options() -> argparse.Namespace:
    summaries = "\n".join(f"  {name:<9} {each.summary}" for name, each in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=f"benchmarks:\n{summaries}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--what", nargs="+", choices=BENCHMARKS, default=list(DEFAULT_BENCHMARKS), metavar="NAME",
        help=f"benchmarks to run (default: {' '.join(DEFAULT_BENCHMARKS)})")  # fmt: skip
    add("--database", nargs="+", choices=DATABASES, default=list(DATABASES), help="databases to run on (default: both)")
    add("--shards", type=int, default=DEFAULT_SHARDS, help="number of shards (default: %(default)s)")
    add("--rounds", type=int, default=3, help="rounds of each benchmark (default: %(default)s)")
    add("--seconds", type=float, default=10.0, help="seconds of load for each side and round (default: %(default)s)")
    add("--rows", type=int, default=200_000, help="rows of the backlog to drain (default: %(default)s)")
    add("--rates", nargs="+", type=int, default=[100, 1_000], help="latency, debezium: requests a second")
    add("--processes", type=int, default=2, help="ingest: gunicorn processes of each side (default: %(default)s)")
    add("--history", nargs="+", type=int, default=[0, 1_000_000], help="growth, mark: rows already sent")
    add("--backlog", nargs="+", type=int, default=[1_000_000], help="backlog: pending rows")
    add("--minutes", type=float, default=30.0, help="soak: duration (default: %(default)s)")
    add("--rate", type=float, help="soak: requests a second (default: half of the maximum)")
    add("--keep", type=Path, metavar="FOLDER", help="verify: keep what was prepared, and use it again")
    add("--smoke", action="store_true", help="run a few small benchmarks to find errors, not to measure")
    options = parser.parse_args()
    return _smoke(options) if options.smoke else options


def _smoke(options: argparse.Namespace) -> argparse.Namespace:
    options.what = list(SMOKE_BENCHMARKS)
    options.rows, options.rounds, options.seconds = 1_000, 1, 0.3
    options.history, options.processes = [1_000], 1
    return options


if __name__ == "__main__":
    main()
