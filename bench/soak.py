"""Soak: for long at half of what the webhook takes, with pruning; nothing may grow, and each row arrives once.

Retention is the shortest there is, a minute, so that rows go as fast as they come for nearly the whole run.
The limit is what the webhook takes beside a relay that is at work, measured first in the same run.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Any

import psutil
import psycopg
from confluent_kafka import Consumer
from sqlalchemy import Engine, make_url, text

from bench.drain import PATIENCE_SECONDS, pending
from bench.environment import BATCH, Environment, Outbox
from bench.ingest import CONNECTIONS
from bench.load import Load, closed_loop, open_loop_beside
from bench.trend import Limit, Sample, judge
from outbox.db import transactions
from outbox.store import Store
from testkit.relay_process import RelayProcess
from testkit.services import Postgres
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

RETENTION = "1m"
SAMPLE_SECONDS = 5.0
TELL_EVERY = 12
"""Samples: a line a minute."""
CHECKPOINT = "60s"
"""PostgreSQL keeps the WAL of about two checkpoints: at its usual five minutes it would still fill up by half-time."""

MEMORY, WHOLE, SIZE = Limit(0.0, 4.0), Limit(0.0, 0.9), Limit(0.1, 8.0)
LIMITS = {
    "relay memory MB": MEMORY,
    "web memory MB": MEMORY,
    "relay open files": WHOLE,
    "web open files": Limit(0.0, 4.0),
    "relay threads": WHOLE,
    "web threads": WHOLE,
    "rows": Limit(0.1, 0.0),
    "database MB": SIZE,
    "WAL MB": SIZE,
    "backlog rows": Limit(0.0, 0.0),
    "oldest pending s": Limit(0.0, 1.0),
}
"""Memory: 4 MB a half; at 350 rows/s for half of 30 minutes that is 13 bytes a row, so a leak of one object a row
shows, while an allocator's ups and downs do not. Open files and threads: not one; senders' connections are taken off
the web's files, but not at the very moment at which those are counted, hence a few. Rows, database and WAL are saws,
with the walks of pruning (30 s), the vacuums and the checkpoints (a minute) for teeth: a tenth of the mean, for that
much a half-cut tooth lifts the line in a run of 30 minutes; in a run of less than 10 it may lift it by more. The
backlog is allowed what comes in a second (see ``_limits``), its oldest row a second: either would grow without end."""


def measure(
    place: Environment, kind: str, shards: int, minutes: float, limit_seconds: float, rate: float | None
) -> dict[str, Any]:
    """Samples judged, and what became of the rows.

    Args:
        limit_seconds: how long the limit is measured.
        rate: of requests a second, instead of half the limit.
    """
    with place.outbox(kind, shards) as outbox, _frequent_checkpoints(place):
        web = WebProcess({"DATABASE_URL": outbox.url, "LOG_LEVEL": "WARNING"}, place.folder / "soak-web.log")
        relay = place.relay({**outbox.settings, "OUTBOX_RETENTION": RETENTION, "LOG_LEVEL": "WARNING"})
        consumer = place.consumer(outbox.topic)
        try:
            limit = closed_loop(web.port, CONNECTIONS, limit_seconds)
            chosen = rate or limit.per_second / 2
            look = _eyes(outbox, relay, web)
            with open_loop_beside(web.port, chosen, minutes * 60) as running:
                arrived, samples = _follow(running, consumer, look)
                load = running.get()
            accepted = limit.outbox_ids + load.outbox_ids
            _read_rest(consumer, arrived, len(accepted))
            wait_until(lambda: not pending(outbox.engine), "all rows are marked", PATIENCE_SECONDS)
        finally:
            consumer.close()
            relay.stop()
            web.stop()
    return {
        **judge(samples, _limits(chosen)),
        "limit, requests/s": round(limit.per_second),
        "rate, requests/s": round(load.per_second),
        "answer p99 ms": round(load.percentile_ms(0.99), 1),
        "refused": limit.refused + load.refused,
        "delivery": delivery(accepted, arrived),
    }


def delivery(accepted: list[int], arrived: list[int]) -> str:
    """What became of the rows that answers of 202 named, in words."""
    times, named = Counter(arrived), set(accepted)
    lost, doubled = named - times.keys(), sum(seen - 1 for seen in times.values())
    unnamed = len(times.keys() - named)
    if not lost and not doubled:
        also = f", and {unnamed:,} whose answer was not 202" if unnamed else ""
        return f"{len(named):,} rows accepted, each delivered exactly once{also}"
    return f"NOT exactly once: of {len(named):,} rows accepted {len(lost):,} are missing, {doubled:,} came again"


def _limits(rate: float) -> dict[str, Limit]:
    return {**LIMITS, "backlog rows": Limit(0.0, rate)}


def _follow(
    running: AsyncResult[Load], consumer: Consumer, look: Callable[[], dict[str, float]]
) -> tuple[list[int], list[Sample]]:
    """Read what arrives and take samples while the load runs."""
    arrived: list[int] = []
    samples: list[Sample] = []
    began = time.monotonic()
    while not running.ready():
        due = began + (len(samples) + 1) * SAMPLE_SECONDS
        while (left := due - time.monotonic()) > 0 and not running.ready():
            _read(consumer, arrived, min(left, 0.5))
        samples.append((time.monotonic() - began, look()))
        if len(samples) % TELL_EVERY == 0:
            sys.stderr.write(f"{samples[-1][0]:6.0f} s  {_line(samples[-1][1])}\n")
    return arrived, samples


def _line(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.1f}".removesuffix(".0") for name, value in figures.items())


def _read(consumer: Consumer, arrived: list[int], seconds: float) -> None:
    for message in consumer.consume(BATCH, seconds):
        if message.error() is None:
            headers: Any = message.headers()
            arrived.append(int(dict(headers)["outbox-id"]))


def _read_rest(consumer: Consumer, arrived: list[int], wanted: int) -> None:
    """Until as many came as were accepted, and nothing more comes; or nothing has come for long."""
    last = time.monotonic()
    while time.monotonic() < last + (2 if len(arrived) >= wanted else PATIENCE_SECONDS / 10):
        before = len(arrived)
        _read(consumer, arrived, 0.5)
        if len(arrived) > before:
            last = time.monotonic()


def _eyes(outbox: Outbox, relay: RelayProcess, web: WebProcess) -> Callable[[], dict[str, float]]:
    """Gives every figure as it is now."""
    masters = {"relay": psutil.Process(relay.pid), "web": psutil.Process(web.process.pid)}
    store, size = Store(outbox.engine), _size_postgresql if outbox.url.startswith("postgresql") else _size_sqlite

    def look() -> dict[str, float]:
        shards = store.status()
        figures = {
            **size(outbox.engine),
            "backlog rows": sum(shard.pending for shard in shards),
            "oldest pending s": max((shard.oldest_age_ms or 0) for shard in shards) / 1000,
        }
        for name, master in masters.items():
            processes = [master, *master.children()]
            figures[f"{name} memory MB"] = sum(each.memory_info().rss for each in processes) / 2**20
            figures[f"{name} open files"] = sum(each.num_fds() - _senders(each, web.port) for each in processes)
            figures[f"{name} threads"] = sum(each.num_threads() for each in processes)
        return figures

    return look


def _senders(process: psutil.Process, port: int) -> int:
    """Connections of senders that are there; one whose sender has gone is an open file too many."""
    connections = process.net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in connections)


def _size_postgresql(engine: Engine) -> dict[str, float]:
    with engine.connect() as connection:
        rows, size, wal = connection.execute(
            text(
                "SELECT count(*), pg_total_relation_size('outbox'), (SELECT sum(size) FROM pg_ls_waldir()) FROM outbox"
            )
        ).one()
    return {"rows": rows, "database MB": size / 2**20, "WAL MB": float(wal) / 2**20}


def _size_sqlite(engine: Engine) -> dict[str, float]:
    file = Path(str(make_url(str(engine.url)).database))
    with transactions.read(engine) as connection:  # which waits for no writer, and holds none up
        rows = connection.execute(text("SELECT count(*) FROM outbox")).scalar_one()
    wal = file.with_name(f"{file.name}-wal")
    return {"rows": rows, "database MB": file.stat().st_size / 2**20, "WAL MB": wal.stat().st_size / 2**20}


@contextmanager
def _frequent_checkpoints(place: Environment) -> Iterator[None]:
    """On a server of our own, for the block."""
    if isinstance(place.postgres, Postgres):
        _alter(place.postgres.url, f"SET checkpoint_timeout = '{CHECKPOINT}'")
    try:
        yield
    finally:
        if isinstance(place.postgres, Postgres):
            _alter(place.postgres.url, "RESET checkpoint_timeout")


def _alter(url: str, change: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM {change}".encode())
        connection.execute("SELECT pg_reload_conf()")
