"""Soak: a long run at half of the webhook's maximum rate, with pruning.

Nothing may grow, and each row must arrive exactly once. Retention is the minimum, one minute, so that for nearly the
whole run rows are pruned as fast as they arrive. The maximum rate is measured first, with a running relay.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Any

import psutil
import psycopg
from confluent_kafka import Consumer
from sqlalchemy import Engine, make_url, text

from bench.drain import TIMEOUT_SECONDS, pending
from bench.environment import BATCH, Environment, Outbox
from bench.ingest import CONNECTIONS
from bench.load import LoadResult, closed_loop, open_loop_in_background
from bench.trend import Limit, Sample, assess_growth
from outbox.db import transactions
from outbox.store import Store
from testkit.relay_process import RelayProcess
from testkit.services import Postgres
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

RETENTION = "1m"
SAMPLE_SECONDS = 5.0
REPORT_EVERY = 12
"""Samples between two progress lines: one line a minute."""
CHECKPOINT_TIMEOUT = "60s"
"""PostgreSQL keeps the WAL of about two checkpoints; with the default of five minutes it would grow for too long."""

MEMORY, COUNT, SIZE = Limit(0.0, 4.0), Limit(0.0, 0.9), Limit(0.1, 8.0)
LIMITS = {
    "relay memory MB": MEMORY,
    "web memory MB": MEMORY,
    "relay open files": COUNT,
    "web open files": Limit(0.0, 4.0),
    "relay threads": COUNT,
    "web threads": COUNT,
    "rows": Limit(0.1, 0.0),
    "database MB": SIZE,
    "WAL MB": SIZE,
    "backlog rows": Limit(0.0, 0.0),
    "oldest pending s": Limit(0.0, 1.0),
}
"""The rise allowed in the second half of a run.

Memory: 4 MB. At 350 rows/s for 15 minutes that is 13 bytes a row, so a leak of one object a row exceeds it and
allocator noise does not. Open files and threads: less than one; a few for the web's files, since senders'
connections are subtracted but not counted at the same instant. Rows, database and WAL follow a sawtooth of pruning
(30 s), vacuums and checkpoints (60 s): a tenth of the mean, which covers a partial tooth in a run of 30 minutes, but
not in one of less than 10. Backlog: the rows of one second (see ``_limits``), and one second of age."""


def measure(
    environment: Environment, database: str, shards: int, minutes: float, maximum_seconds: float, rate: float | None
) -> dict[str, Any]:
    """Return what grows, and how the rows were delivered.

    Args:
        environment: the services.
        database: kind of database.
        shards: number of shards.
        minutes: duration of the load.
        maximum_seconds: how long to measure the maximum rate.
        rate: requests a second; None for half of the maximum.
    """
    with environment.outbox(database, shards) as outbox, _frequent_checkpoints(environment):
        web = WebProcess({"DATABASE_URL": outbox.url, "LOG_LEVEL": "WARNING"}, environment.folder / "soak-web.log")
        relay = environment.relay({**outbox.settings, "OUTBOX_RETENTION": RETENTION, "LOG_LEVEL": "WARNING"})
        consumer = environment.consumer(outbox.topic)
        try:
            maximum = closed_loop(web.port, CONNECTIONS, maximum_seconds)
            chosen = rate or maximum.per_second / 2
            probe = Probe(outbox, relay, web)
            with open_loop_in_background(web.port, chosen, minutes * 60) as running:
                arrived, samples = _observe(running, consumer, probe)
                load = running.get()
            accepted = maximum.outbox_ids + load.outbox_ids
            _read_rest(consumer, arrived, len(accepted))
            wait_until(lambda: not pending(outbox.engine), "all rows are marked", TIMEOUT_SECONDS)
        finally:
            consumer.close()
            relay.stop()
            web.stop()
    return {
        **assess_growth(samples, _limits(chosen)),
        "maximum requests/s": round(maximum.per_second),
        "requests/s": round(load.per_second),
        "response p99 ms": round(load.percentile_ms(0.99), 1),
        "refused": maximum.refused + load.refused,
        "delivery": delivery(accepted, arrived),
    }


def delivery(accepted: list[int], arrived: list[int]) -> str:
    """Describe how the accepted rows were delivered."""
    copies, expected = Counter(arrived), set(accepted)
    lost, duplicates = expected - copies.keys(), sum(count - 1 for count in copies.values())
    others = len(copies.keys() - expected)
    if lost or duplicates:
        return f"NOT exactly once: of {len(expected):,} accepted rows {len(lost):,} are lost; {duplicates:,} duplicates"
    also = f", and {others:,} more that were not answered with 202" if others else ""
    return f"{len(expected):,} accepted rows, each delivered exactly once{also}"


def _limits(rate: float) -> dict[str, Limit]:
    return {**LIMITS, "backlog rows": Limit(0.0, rate)}


def _observe(running: AsyncResult[LoadResult], consumer: Consumer, probe: "Probe") -> tuple[list[int], list[Sample]]:
    """Consume records and take samples while the load runs."""
    arrived: list[int] = []
    samples: list[Sample] = []
    began = time.monotonic()
    while not running.ready():
        due = began + (len(samples) + 1) * SAMPLE_SECONDS
        while (left := due - time.monotonic()) > 0 and not running.ready():
            _read(consumer, arrived, min(left, 0.5))
        samples.append((time.monotonic() - began, probe.sample()))
        if len(samples) % REPORT_EVERY == 0:
            sys.stderr.write(f"{samples[-1][0]:6.0f} s  {_format(samples[-1][1])}\n")
    return arrived, samples


def _format(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.1f}".removesuffix(".0") for name, value in figures.items())


def _read(consumer: Consumer, arrived: list[int], seconds: float) -> None:
    for message in consumer.consume(BATCH, seconds):
        if message.error() is None:
            headers: Any = message.headers()
            arrived.append(int(dict(headers)["outbox-id"]))


def _read_rest(consumer: Consumer, arrived: list[int], wanted: int) -> None:
    """Read until all wanted records and no others for 2 s have arrived, or none has arrived for a minute."""
    last = time.monotonic()
    while time.monotonic() < last + (2 if len(arrived) >= wanted else TIMEOUT_SECONDS / 10):
        before = len(arrived)
        _read(consumer, arrived, 0.5)
        if len(arrived) > before:
            last = time.monotonic()


class Probe:
    """Reads the current figures of the database and of both processes."""

    def __init__(self, outbox: Outbox, relay: RelayProcess, web: WebProcess) -> None:
        self._engine, self._store, self._web_port = outbox.engine, Store(outbox.engine), web.port
        self._masters = {"relay": psutil.Process(relay.pid), "web": psutil.Process(web.process.pid)}
        self._sizes = _size_postgresql if outbox.url.startswith("postgresql") else _size_sqlite

    def sample(self) -> dict[str, float]:
        """Return every figure as it is now."""
        shards = self._store.status()
        figures = {
            **self._sizes(self._engine),
            "backlog rows": sum(shard.pending for shard in shards),
            "oldest pending s": max((shard.oldest_age_ms or 0) for shard in shards) / 1000,
        }
        for name, master in self._masters.items():
            processes = [master, *master.children()]
            figures[f"{name} memory MB"] = sum(each.memory_info().rss for each in processes) / 2**20
            figures[f"{name} open files"] = sum(each.num_fds() - self._connections(each) for each in processes)
            figures[f"{name} threads"] = sum(each.num_threads() for each in processes)
        return figures

    def _connections(self, process: psutil.Process) -> int:
        """Count connections of senders; one that the sender has closed counts as an open file instead."""
        connections = process.net_connections("tcp")
        return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == self._web_port for c in connections)


def _size_postgresql(engine: Engine) -> dict[str, float]:
    with engine.connect() as connection:
        rows, size, wal = connection.execute(
            text(
                "SELECT count(*), pg_database_size(current_database()), (SELECT sum(size) FROM pg_ls_waldir()) "
                "FROM outbox"
            )
        ).one()
    return {"rows": rows, "database MB": size / 2**20, "WAL MB": float(wal) / 2**20}


def _size_sqlite(engine: Engine) -> dict[str, float]:
    file = Path(str(make_url(str(engine.url)).database))
    with transactions.read(engine) as connection:  # readers and writers do not block each other
        rows = connection.execute(text("SELECT count(*) FROM outbox")).scalar_one()
    wal = file.with_name(f"{file.name}-wal")
    return {"rows": rows, "database MB": file.stat().st_size / 2**20, "WAL MB": wal.stat().st_size / 2**20}


@contextmanager
def _frequent_checkpoints(environment: Environment) -> Iterator[None]:
    """Checkpoint often within the block, if the server is ours."""
    if isinstance(environment.postgres, Postgres):
        _alter_system(environment.postgres.url, f"SET checkpoint_timeout = '{CHECKPOINT_TIMEOUT}'")
    try:
        yield
    finally:
        if isinstance(environment.postgres, Postgres):
            _alter_system(environment.postgres.url, "RESET checkpoint_timeout")


def _alter_system(url: str, change: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM {change}".encode())
        connection.execute("SELECT pg_reload_conf()")
