"""``python -m bench [--rows N] [--rounds N] [--seconds N]``: first figures for drain and ingest.

Drain: a backlog of committed rows, until every one is in the topic and marked, beside the same bytes
through a raw transactional producer with the same batch. Ingest: see ``bench.ingest``. The two
sides of a ratio alternate within one run.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic
from sqlalchemy import Engine, text

from bench import ingest
from outbox.engine import create_outbox_engine
from outbox.leases import Leases
from outbox.store import Store
from relay.encoding import Encoder
from relay.publisher import Publisher
from tests.conftest import migrate
from tests.relay_process import RelayProcess
from tests.services import Kafka, Postgres, Registry
from tests.support import new_rows, wait_until
from tests.world import settings_for

BATCH = 5_000


def main() -> None:
    """Run everything and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--rows", type=int, default=100_000, help="backlog to drain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, a side and round")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-bench-"))
    kafka, registry, postgres = Kafka(folder / "kafka"), Registry(folder / "registry"), Postgres(folder / "postgres")
    report: dict[str, Any] = {"machine": _machine(), "rows": options.rows, "batch": BATCH, "rounds": options.rounds}
    try:
        for service in (kafka, registry, postgres):
            service.start()
        for kind in ("sqlite", "postgresql"):
            make = _maker(kind, folder, postgres)
            report[f"drain {kind}"] = _drain(kafka, registry, make, folder, options.rows, options.rounds)
            report[f"ingest {kind}"] = ingest.measure(make, folder, options.seconds, options.rounds)
    finally:
        for service in (kafka, registry, postgres):
            service.stop()
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _machine() -> dict[str, Any]:
    import importlib.metadata as packages

    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "librdkafka": confluent_kafka.libversion()[0],
        "gunicorn": packages.version("gunicorn"),
        "flask": packages.version("flask"),
    }


def _maker(kind: str, folder: Path, postgres: Postgres) -> Callable[[], str]:
    """Makes migrated databases with one shard."""

    def make() -> str:
        name = f"bench_{uuid.uuid4().hex[:8]}"
        url = f"sqlite:///{folder}/{name}.db" if kind == "sqlite" else postgres.create_database(name)
        migrate(url, 1)
        return url.replace("postgresql://", "postgresql+psycopg://")

    return make


def _drain(
    kafka: Kafka, registry: Registry, make: Callable[[], str], folder: Path, count: int, rounds: int
) -> dict[str, Any]:
    relay_rates, raw_rates = [], []
    for number in range(rounds):
        url = make()
        engine = create_outbox_engine(url)
        _fill(engine, count)
        settings = settings_for(kafka, registry, url)
        relay = RelayProcess(settings, folder / f"relay-{number}.log")
        wait_until(lambda: _sent(engine), "the first rows are sent", 120)  # noqa: B023 - called at once
        flowing, already = time.monotonic(), _sent(engine)
        wait_until(lambda: _sent(engine) == count, "the backlog is drained", 600)  # noqa: B023 - called at once
        relay_rates.append((count - already) / (time.monotonic() - flowing))
        relay.stop()
        raw_rates.append(_raw(kafka, engine, count))
        engine.dispose()
    return _compared("relay rows/s", relay_rates, "raw transactional producer rows/s", raw_rates)


def _fill(engine: Engine, count: int) -> None:
    store = Store(engine)
    for _ in range(0, count, BATCH):
        store.record(new_rows(BATCH, interactions=500))


def _sent(engine: Engine) -> int:
    (shard,) = Store(engine).status()
    return shard.settled * BATCH


def _raw(kafka: Kafka, engine: Engine, count: int) -> float:
    """The same bytes, encoded beforehand, through the same client settings, nothing read or marked."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET state = 'pending', sent_at = NULL, sequence = NULL"))
        connection.execute(text("UPDATE outbox_shard SET settled = 0"))
    lease = Leases(engine, "bench", 600).take(0)
    assert lease is not None
    records = Encoder(1).records(Store(engine).pending(lease, count))
    topic = f"raw-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(kafka.client_config)
    for future in admin.create_topics([NewTopic(topic, 8, 1), NewTopic(f"{topic}-p", 1, 1)]).values():
        future.result(10)
    config = {**kafka.client_config, "linger.ms": 5}
    publisher = Publisher(config, topic, topic, (f"{topic}-p", 0, b"key"), lambda: False)
    publisher.fence()
    publisher.publish(records[:10], b"")
    began = time.monotonic()
    for start in range(0, count, BATCH):
        publisher.publish(records[start : start + BATCH], b"x" * 70_000)
    rate = count / (time.monotonic() - began)
    publisher.close()
    return rate


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
