"""Debezium: drain and latency of the relay and of Debezium's outbox event router with exactly-once delivery.

One tuned, warm connector serves the whole run. Its outbox table is in a separate database on the same server and
contains keys and encoded Avro values, so both sides send the same keys and values to the same broker. Debezium
does not encode and does not mark rows: it reads the WAL and stores its position in a Kafka topic. The two sides
alternate; only one runs at a time.
"""

import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from app.notifier import Notifier
from bench.connector import Debezium
from bench.drain import drain, encoded
from bench.environment import Environment, fill
from bench.latency import Figures, at_rates, in_groups
from bench.report import ratio, spread
from outbox.store import Store
from testkit.rows import new_row
from testkit.services import Connect, ExternalService, ServiceError
from testkit.services.connect import CONNECT_VERSION, DEBEZIUM_VERSION
from testkit.services.java import CACHE

WARM_UP_ROWS = 200_000
"""Enough for the Java runtime to compile its hot code."""


def measure(
    environment: Environment,
    database: str,
    count: int,
    rounds: int,
    shards: int,
    rates: list[int],
    seconds: float,
    cache: Path = CACHE,
) -> dict[str, Any]:
    """Return the figures of both sides, or why it was not run."""
    if database != "postgresql":
        return {"not run": "Debezium is compared on PostgreSQL only"}
    if isinstance(environment.kafka, ExternalService) or isinstance(environment.postgres, ExternalService):
        return {"not run": "needs its own broker and PostgreSQL server; unset the variables that name external ones"}
    settings = {"task.shutdown.graceful.timeout.ms": "60000"}
    connect = Connect(environment.folder / "connect", environment.kafka.bootstrap_servers, settings, cache=cache)
    try:
        connect.start()
    except ServiceError as error:
        return {"not run": str(error)}
    try:
        with closing(Debezium(environment, connect)) as peer:
            drains = _drains(environment, peer, count, rounds, shards)
            latencies = _latencies(environment, peer, rounds, shards, rates, seconds)
    finally:
        connect.stop()
    versions = f"Debezium {DEBEZIUM_VERSION} on Kafka Connect {CONNECT_VERSION}"
    return {"compared with": versions, "shards": shards, **drains, **latencies}


def _drains(environment: Environment, peer: Debezium, count: int, rounds: int, shards: int) -> dict[str, Any]:
    ours: list[float] = []
    theirs: list[float] = []
    costs: dict[str, list[float]] = {}
    for number in range(rounds):
        with environment.outbox("postgresql", shards) as outbox:
            fill(outbox.engine, count)
            records = encoded(outbox.engine, count)
            if not number:
                peer.drain((records * (WARM_UP_ROWS // count + 1))[:WARM_UP_ROWS])
            sides = ("relay", ours, drain(environment, outbox, count)), ("Debezium", theirs, peer.drain(records))
        for side, rates, (rate, cost) in sides:
            rates.append(rate)
            for name, value in cost.items():
                costs.setdefault(f"{side}: {name}", []).append(value)
    return {
        "relay: rows/s": spread(ours),
        "Debezium: rows/s": spread(theirs),
        "rows/s, relay / Debezium": ratio(ours, theirs),
        **{name: spread(values, 2) for name, values in costs.items()},
    }


def _latencies(
    environment: Environment, peer: Debezium, rounds: int, shards: int, rates: list[int], seconds: float
) -> dict[str, Any]:
    """Measure from a row's commit until a consumer has its record; return a spread for each percentile."""
    by_rate: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        ours, theirs = _latency(environment, shards, rates, seconds), peer.latency(rates, seconds)
        for rate in ours:
            by_rate.setdefault(f"relay: latency {rate}", []).append(ours[rate])
            by_rate.setdefault(f"Debezium: latency {rate}", []).append(theirs[rate])
    return {
        name: {part: spread([figures[part] for figures in runs], 1) for part in runs[0]}
        for name, runs in by_rate.items()
    }


def _latency(environment: Environment, shards: int, rates: list[int], seconds: float) -> dict[str, Figures]:
    """Measure a relay that is notified of each commit, as by the webhook."""
    with environment.outbox("postgresql", shards) as outbox:
        store = Store(outbox.engine)
        notifier = Notifier(store)

        def commit(interactions: list[str]) -> float:
            outcomes = store.record([new_row(interaction) for interaction in interactions])
            committed = time.perf_counter()
            notifier.notify(outcomes)
            return committed

        relay, consumer = environment.relay(outbox.settings), environment.consumer(outbox.topic)
        try:
            return at_rates(partial(in_groups, commit), consumer, rates, seconds)
        finally:
            consumer.close()
            relay.stop()
