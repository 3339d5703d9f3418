"""Scale: drain rates by number of relays, and by number of shards, in alternation.

The relays share the shards evenly and are warm before the backlog is committed, all at once.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.contention import WaitSampler, counters, shares
from bench.drain import TIMEOUT_SECONDS, consume, drain, pending, time_relays
from bench.environment import BATCH, Environment, Outbox, fill
from bench.report import ratio, spread
from bench.rows import CHUNK, commit_backlog
from outbox.store import Store
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until

RELAYS = (1, 2, 4)
SHARDS = (1, 2, 4, 8)


def measure(environment: Environment, database: str, count: int, rounds: int, shards: int) -> dict[str, Any]:
    """Return the figures for each number of relays, ratios to one relay, and the waits of PostgreSQL sessions."""
    figures: dict[int, dict[str, list[float]]] = {relays: {} for relays in RELAYS}
    waits: dict[int, Counter[str]] = {relays: Counter() for relays in RELAYS}
    for _ in range(rounds):
        for relays in RELAYS:
            with environment.outbox(database, shards) as outbox:
                measured, waited = _round(environment, outbox, min(count, CHUNK), relays)
            waits[relays] += waited
            for name, value in measured.items():
                figures[relays].setdefault(name, []).append(value)
    return {
        f"{relays} relays": {
            **{name: spread(values, 1) for name, values in figures[relays].items()},
            "rows/s, ratio to one relay": ratio(figures[relays]["rows/s"], figures[1]["rows/s"]),
            "waits of active sessions": shares(waits[relays]),
        }
        for relays in RELAYS
    }


def measure_shards(environment: Environment, database: str, count: int, rounds: int) -> dict[str, Any]:
    """Return drain rates and costs for each number of shards, with one relay, and ratios to one shard."""
    figures: dict[int, dict[str, list[float]]] = {shards: {} for shards in SHARDS}
    for _ in range(rounds):
        for shards in SHARDS:
            with environment.outbox(database, shards) as outbox:
                fill(outbox.engine, count)
                rate, cost = drain(environment, outbox, count)
            for name, value in {"rows/s": rate, **cost}.items():
                figures[shards].setdefault(name, []).append(value)
    return {
        f"{shards} shards": {
            **{name: spread(values, 1) for name, values in measured.items()},
            "rows/s, ratio to one shard": ratio(measured["rows/s"], figures[1]["rows/s"]),
        }
        for shards, measured in figures.items()
    }


def _round(environment: Environment, outbox: Outbox, count: int, relays: int) -> tuple[dict[str, float], Counter[str]]:
    consumer, warm, before = environment.consumer(outbox.topic), BATCH * outbox.shards, counters(outbox.url)
    with _balanced_relays(environment, outbox, relays) as processes:
        commit_backlog(outbox, warm)  # with its first batch a shard connects, and calls the registry
        consume(consumer, warm)
        wait_until(lambda: not pending(outbox.engine), "the relays are warm", TIMEOUT_SECONDS)
        commit_backlog(outbox, count)
        with WaitSampler(outbox.url) as waits:
            rate, cost = time_relays(environment, processes, consumer, outbox.engine, count)
    consumer.close()
    done = {name: value - before[name] for name, value in counters(outbox.url).items()}
    activity = {f"{name} per 1,000 rows": value / (warm + count) * 1000 for name, value in done.items()}
    return {"rows/s": rate, **cost, **activity}, waits.counts


@contextmanager
def _balanced_relays(environment: Environment, outbox: Outbox, relays: int) -> Iterator[list[RelayProcess]]:
    """Run relays for the block, and wait until each owns its share of the shards."""
    processes = [environment.relay(outbox.settings) for _ in range(relays)]
    store, share = Store(outbox.engine), outbox.shards // relays
    try:
        wait_until(lambda: _is_balanced(store, min(relays, outbox.shards), share), f"{relays} relays share the shards")
        yield processes
    finally:
        for process in processes:
            process.stop()


def _is_balanced(store: Store, owners: int, share: int) -> bool:
    owned = Counter(shard.owner for shard in store.status() if shard.owner)
    return len(owned) == owners and min(owned.values()) >= share
