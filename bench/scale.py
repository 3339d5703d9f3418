"""Scale-out: the same backlog, drained by one, two and four relays in turn, and by 1 to 8 shards in turn.

The relays share the shards evenly and are warm before the backlog appears, all of it in one commit.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.contention import Waits, counters, shares
from bench.drain import PATIENCE_SECONDS, consume, drain, follow, pending
from bench.environment import BATCH, Environment, Outbox, fill
from bench.report import ratio, spread
from bench.rows import CHUNK, appear
from outbox.store import Store
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until

RELAYS = (1, 2, 4)
SHARDS = (1, 2, 4, 8)


def measure(place: Environment, kind: str, count: int, rounds: int, shards: int) -> dict[str, Any]:
    """Figures by number of relays; ratios against one. What sessions wait for is known on PostgreSQL."""
    figures: dict[int, dict[str, list[float]]] = {relays: {} for relays in RELAYS}
    waits: dict[int, Counter[str]] = {relays: Counter() for relays in RELAYS}
    for _ in range(rounds):
        for relays in RELAYS:
            with place.outbox(kind, shards) as outbox:
                found, waited = _round(place, outbox, min(count, CHUNK), relays)
            waits[relays] += waited
            for name, value in found.items():
                figures[relays].setdefault(name, []).append(value)
    return {
        f"{relays} relay(s)": {
            **{name: spread(values, 1) for name, values in figures[relays].items()},
            "rows/s, of one": ratio(figures[relays]["rows/s"], figures[1]["rows/s"]),
            "active sessions wait for": shares(waits[relays]),
        }
        for relays in RELAYS
    }


def measure_shards(place: Environment, kind: str, count: int, rounds: int) -> dict[str, Any]:
    """Drain rates and costs by number of shards, with one relay; ratios against one shard."""
    figures: dict[int, dict[str, list[float]]] = {shards: {} for shards in SHARDS}
    for _ in range(rounds):
        for shards in SHARDS:
            with place.outbox(kind, shards) as outbox:
                fill(outbox.engine, count)
                rate, cost = drain(place, outbox, count)
            for name, value in {"rows/s": rate, **cost}.items():
                figures[shards].setdefault(name, []).append(value)
    return {
        f"{shards} shard(s)": {
            **{name: spread(values, 1) for name, values in found.items()},
            "rows/s, of one": ratio(found["rows/s"], figures[1]["rows/s"]),
        }
        for shards, found in figures.items()
    }


def _round(place: Environment, outbox: Outbox, count: int, relays: int) -> tuple[dict[str, float], Counter[str]]:
    consumer, warm, before = place.consumer(outbox.topic), BATCH * outbox.shards, counters(outbox.url)
    with _sharing(place, outbox, relays) as processes:
        appear(outbox, warm)  # with its first batch a shard connects, and asks the registry
        consume(consumer, warm)
        wait_until(lambda: not pending(outbox.engine), "the relays are warm", PATIENCE_SECONDS)
        appear(outbox, count)
        with Waits(outbox.url) as waits:
            rate, cost = follow(place, processes, consumer, outbox.engine, count)
    consumer.close()
    done = {name: value - before[name] for name, value in counters(outbox.url).items()}
    told = {f"{name} per 1,000 rows": value / (warm + count) * 1000 for name, value in done.items()}
    return {"rows/s": rate, **cost, **told}, waits.seen


@contextmanager
def _sharing(place: Environment, outbox: Outbox, relays: int) -> Iterator[list[RelayProcess]]:
    """So many relays, each with its share of the shards."""
    processes = [place.relay(outbox.settings) for _ in range(relays)]
    store, least = Store(outbox.engine), outbox.shards // relays
    try:
        wait_until(lambda: _shared(store, min(relays, outbox.shards), least), f"{relays} relay(s) share")
        yield processes
    finally:
        for process in processes:
            process.stop()


def _shared(store: Store, owners: int, least: int) -> bool:
    held = Counter(shard.owner for shard in store.status() if shard.owner)
    return len(held) == owners and min(held.values()) >= least
