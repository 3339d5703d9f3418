"""Backlog: memory and start-up time of a relay, and the speed of ``status``, with many pending rows.

The relay drains for a limited time, not to the end.
"""

import time
from typing import Any

from bench.drain import consume
from bench.environment import BATCH, Environment, Outbox, PeakMemory
from bench.rows import add_backlog, vacuum
from outbox.store import Store


def measure(
    environment: Environment, database: str, backlogs: list[int], seconds: float, shards: int
) -> dict[str, Any]:
    """Return the figures for each number of pending rows."""
    figures = {}
    for size in backlogs:
        with environment.outbox(database, shards) as outbox:
            add_backlog(outbox.engine, size)
            vacuum(outbox.engine)
            figures[f"{size:,} rows pending"] = _drain_partly(environment, outbox, seconds)
    return figures


def _drain_partly(environment: Environment, outbox: Outbox, seconds: float) -> dict[str, Any]:
    consumer = environment.consumer(outbox.topic)
    status_ms = _status_ms(Store(outbox.engine))
    began = time.monotonic()
    relay = environment.relay(outbox.settings)
    try:
        with PeakMemory([relay.pid]) as peak:
            count = consume(consumer, 1)
            first = time.monotonic()
            while time.monotonic() < first + seconds:
                count += len(consumer.consume(BATCH, 0.05))
            rate = count / (time.monotonic() - first)
            degraded = relay.degraded()
    finally:
        consumer.close()
        relay.stop()
    return {
        "relay memory MB": round(peak.megabytes),
        "rows/s": round(rate),
        "start to first record s": round(first - began, 1),
        "status ms": status_ms,
        "degraded at the end": "; ".join(f"{subject}: {reason}" for subject, reason in degraded.items()) or "nothing",
    }


def _status_ms(store: Store) -> float:
    began = time.monotonic()
    store.status()
    return round((time.monotonic() - began) * 1000, 1)
