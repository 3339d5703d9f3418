"""Beside Debezium's outbox event router on Kafka Connect, exactly once as well: drain and latency, in turn.

One connector, tuned and warm, serves the whole run. Its outbox table lies in a database of its own on the
same server and holds keys and Avro values ready made, so that both sides put the same keys and values on
the same broker. It neither encodes nor marks: it reads the server's write-ahead log and keeps its place in
a Kafka topic. Its task is stopped while a relay has its turn, and no relay is there during its own.
"""

import time
from contextlib import closing
from functools import partial
from typing import Any

from bench.connect import CONNECT, DEBEZIUM, Connect
from bench.connector import Debezium
from bench.drain import drain, encoded
from bench.environment import Environment, fill
from bench.latency import Figures, at_rates, in_groups
from bench.report import ratio, spread
from outbox.store import Store
from testkit.rows import new_row
from testkit.services import ExternalService, ServiceError

WARM_UP_ROWS = 200_000
"""Before that, the Java runtime has not compiled what it runs most."""


def measure(
    place: Environment, kind: str, count: int, rounds: int, shards: int, rates: list[int], seconds: float
) -> dict[str, Any]:
    """Figures of both sides, or why there are none."""
    if kind != "postgresql":
        return {"not run": "it is compared on PostgreSQL only"}
    if isinstance(place.kafka, ExternalService) or isinstance(place.postgres, ExternalService):
        return {"not run": "it needs a broker and a PostgreSQL of its own, not those that the environment names"}
    connect = Connect(place.folder / "connect", place.kafka)
    try:
        connect.start()
    except ServiceError as error:
        return {"not run": str(error)}
    try:
        with closing(Debezium(place, connect)) as peer:
            drains = _drains(place, peer, count, rounds, shards)
            latencies = _latencies(place, peer, rounds, shards, rates, seconds)
    finally:
        connect.stop()
    return {"beside": f"Debezium {DEBEZIUM} on Kafka Connect {CONNECT}", "shards": shards, **drains, **latencies}


def _drains(place: Environment, peer: Debezium, count: int, rounds: int, shards: int) -> dict[str, Any]:
    ours: list[float] = []
    theirs: list[float] = []
    costs: dict[str, list[float]] = {}
    for number in range(rounds):
        with place.outbox("postgresql", shards) as outbox:
            fill(outbox.engine, count)
            records = encoded(outbox.engine, count)
            if not number:
                peer.drain((records * (WARM_UP_ROWS // count + 1))[:WARM_UP_ROWS])
            sides = ("relay", ours, drain(place, outbox, count)), ("Debezium", theirs, peer.drain(records))
        for side, rates, (rate, cost) in sides:
            rates.append(rate)
            for name, value in cost.items():
                costs.setdefault(f"{side}: {name}", []).append(value)
    return {
        "relay: rows/s": spread(ours),
        "Debezium: rows/s": spread(theirs),
        "relay's rows/s of Debezium's": ratio(ours, theirs),
        **{name: spread(values, 2) for name, values in costs.items()},
    }


def _latencies(
    place: Environment, peer: Debezium, rounds: int, shards: int, rates: list[int], seconds: float
) -> dict[str, Any]:
    """From a row's commit until a consumer has its record; a spread for each percentile."""
    found: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        ours, theirs = _latency(place, shards, rates, seconds), peer.latency(rates, seconds)
        for rate in ours:
            found.setdefault(f"relay: latency {rate}", []).append(ours[rate])
            found.setdefault(f"Debezium: latency {rate}", []).append(theirs[rate])
    return {
        name: {part: spread([figures[part] for figures in each], 1) for part in each[0]} for name, each in found.items()
    }


def _latency(place: Environment, shards: int, rates: list[int], seconds: float) -> dict[str, Figures]:
    """Of a relay that hears of each commit as it does from the webhook."""
    with place.outbox("postgresql", shards) as outbox:
        store = Store(outbox.engine)

        def commit(interactions: list[str]) -> float:
            outcomes = store.record([new_row(interaction) for interaction in interactions])
            committed = time.perf_counter()
            store.notify(outcomes)
            return committed

        relay, consumer = place.relay(outbox.settings), place.consumer(outbox.topic)
        try:
            return at_rates(partial(in_groups, commit), consumer, rates, seconds)
        finally:
            consumer.close()
            relay.stop()
