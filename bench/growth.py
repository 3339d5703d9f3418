"""Growth: latency and drain with histories of different length, in alternation.

Each history is created once, and every round uses a copy. The relay is warm before the backlog is committed, all at
once. ``bench.operators`` measures operators' commands with a long history, ``bench.backlog`` a long backlog.
"""

from collections.abc import Callable
from typing import Any

from bench.drain import time_relays
from bench.environment import Environment, Outbox
from bench.latency import running_pipeline
from bench.report import ratio, spread
from bench.rows import CHUNK, add_history, commit_backlog
from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine

RATE = 100
"""Requests a second while latency is measured."""


def measure(
    environment: Environment, database: str, count: int, history: list[int], rounds: int, shards: int, seconds: float
) -> dict[str, Any]:
    """Return the figures for each length of history, and ratios to the first."""
    figures = by_history(
        environment,
        database,
        shards,
        history,
        rounds,
        lambda outbox: _round(environment, outbox, min(count, CHUNK), seconds),
    )
    return {
        f"{size:,} rows of history": {
            **{name: spread(values, 1) for name, values in measured.items()},
            f"rows/s, ratio to {history[0]:,} rows": ratio(measured["rows/s"], figures[history[0]]["rows/s"]),
        }
        for size, measured in figures.items()
    }


def by_history(
    environment: Environment,
    database: str,
    shards: int,
    history: list[int],
    rounds: int,
    measure_round: Callable[[Outbox], dict[str, float]],
) -> dict[int, dict[str, list[float]]]:
    """Return the figures of every round by name, for each length of history."""
    figures: dict[int, dict[str, list[float]]] = {size: {} for size in history}
    urls = {size: _create_history(environment, database, shards, size) for size in history}
    for _ in range(rounds):
        for size in history:
            with environment.outbox(database, shards, urls[size]) as outbox:
                for name, value in measure_round(outbox).items():
                    figures[size].setdefault(name, []).append(value)
    return figures


def _create_history(environment: Environment, database: str, shards: int, size: int) -> str:
    """Create an outbox with sent rows and return its URL."""
    url = environment.make(database, shards)
    engine = create_outbox_engine(url, answer_seconds=LONG_ANSWER_SECONDS)
    add_history(engine, size)
    engine.dispose()
    return url


def _round(environment: Environment, outbox: Outbox, count: int, seconds: float) -> dict[str, float]:
    with running_pipeline(environment, outbox) as pipeline:
        latencies = pipeline.at_rates([RATE], seconds)
        commit_backlog(outbox, count)
        rate, cost = time_relays(environment, [pipeline.relay], pipeline.consumer, outbox.engine, count)
    percentiles = {
        f"{name} {at}": ms for at, figures in latencies.items() for name, ms in figures.items() if name.endswith(" ms")
    }
    return {"rows/s": rate, **cost, **percentiles}
