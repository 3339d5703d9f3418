"""Backlog: what a relay needs while very much waits: its memory, its first record, and how soon ``status`` answers.

It drains for a bounded time, not to the end.
"""

import time
from typing import Any

from bench.drain import consume
from bench.environment import BATCH, Environment, Outbox, Peak
from bench.rows import add_backlog, age
from outbox.store import Store


def measure(place: Environment, kind: str, backlogs: list[int], seconds: float, shards: int) -> dict[str, Any]:
    """Figures by rows pending."""
    found = {}
    for size in backlogs:
        with place.outbox(kind, shards) as outbox:
            add_backlog(outbox.engine, size, shards)
            age(outbox.engine)
            found[f"{size:,} rows pending"] = _partly(place, outbox, seconds)
    return found


def _partly(place: Environment, outbox: Outbox, seconds: float) -> dict[str, Any]:
    consumer, store = place.consumer(outbox.topic), Store(outbox.engine)
    asked = time.monotonic()
    store.status()
    began = time.monotonic()
    relay = place.relay(outbox.settings)
    try:
        with Peak([relay.pid]) as peak:
            seen = consume(consumer, 1)
            first = time.monotonic()
            while time.monotonic() < first + seconds:
                seen += len(consumer.consume(BATCH, 0.05))
            rate = seen / (time.monotonic() - first)
            degraded = relay.degraded()
    finally:
        consumer.close()
        relay.stop()
    return {
        "relay memory MB": round(peak.mb),
        "rows/s": round(rate),
        "start to first record s": round(first - began, 1),
        "status ms": round((began - asked) * 1000, 1),
        "degraded at the end": "; ".join(f"{subject}: {reason}" for subject, reason in degraded.items()) or "nothing",
    }
