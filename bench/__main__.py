"""``python -m bench [--what …] [--database …]``: where the figures come from.

drain, latency, growth, scale, ingest, debezium: see the modules of these names. The
two sides of a ratio take turns within one run.
"""

import argparse
import json
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import debezium, drain, growth, ingest, latency, scale
from bench.place import BATCH, Place
from bench.report import machine, table
from tests.conftest import migrate
from tests.services import Kafka, Postgres, Registry, ServiceError

SHARDS = {"sqlite": 1, "postgresql": 8}
"""What a fresh outbox has by default."""
WHAT = ("drain", "latency", "growth", "scale", "ingest", "debezium")


def main() -> None:
    """Run what is asked for, print one JSON document, and a table beside it."""
    options = _options()
    try:
        place = _start(Path(tempfile.mkdtemp(prefix="outbox-bench-")))
    except ServiceError as error:
        sys.exit(f"not run: {error}")
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
    parser.add_argument(
        "--smoke", action="store_true", help="all but scale and debezium, small: for crashes, not times"
    )
    options = parser.parse_args()
    if options.smoke:
        options.what = ["drain", "latency", "growth", "ingest"]
        options.rows, options.rounds, options.seconds = 5_000, 1, 1
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
    if what == "debezium":
        return debezium.measure(place, kind, options.rows, options.rounds, shards, options.rates, options.seconds)
    return ingest.measure(_maker(kind, place.folder, place.postgres), place.folder, options.seconds, options.rounds)


def _maker(kind: str, folder: Path, postgres: Postgres, shards: int = 1) -> Callable[[], str]:
    """Makes migrated databases."""

    def make() -> str:
        name = f"bench_{uuid.uuid4().hex[:8]}"
        url = f"sqlite:///{folder}/{name}.db" if kind == "sqlite" else postgres.create_database(name)
        migrate(url, shards)
        return url.replace("postgresql://", "postgresql+psycopg://")

    return make


if __name__ == "__main__":
    main()
