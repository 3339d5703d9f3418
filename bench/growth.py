"""Growth: the same load answered, and then a backlog drained, with no history and with much, in turn.

Each history is made once; every round works on a copy of it. The relay is warm before the backlog appears, all of
it in one commit. What operators wait for is measured by
``bench.operators``, what a long backlog costs by ``bench.backlog``.
"""

from typing import Any

from bench.drain import follow
from bench.environment import Environment, Outbox
from bench.latency import flowing
from bench.report import ratio, spread
from bench.rows import CHUNK, add_history, appear
from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine

RATE = 100
"""Of the load whose latency is taken, in requests a second."""


def measure(
    place: Environment, kind: str, count: int, history: list[int], rounds: int, shards: int, seconds: float
) -> dict[str, Any]:
    """Figures by rows of history; ratios against the first."""
    figures: dict[int, dict[str, list[float]]] = {size: {} for size in history}
    urls = {size: _with_history(place, kind, shards, size) for size in history}
    for _ in range(rounds):
        for size in history:
            with place.outbox(kind, shards, urls[size]) as outbox:
                for name, value in _round(place, outbox, min(count, CHUNK), seconds).items():
                    figures[size].setdefault(name, []).append(value)
    return {
        f"{size:,} rows of history": {
            **{name: spread(values, 1) for name, values in found.items()},
            f"rows/s, of that with {history[0]:,}": ratio(found["rows/s"], figures[history[0]]["rows/s"]),
        }
        for size, found in figures.items()
    }


def _with_history(place: Environment, kind: str, shards: int, size: int) -> str:
    url = place.make(kind, shards)
    engine = create_outbox_engine(url, answer_seconds=LONG_ANSWER_SECONDS)
    add_history(engine, size, shards)
    engine.dispose()
    return url


def _round(place: Environment, outbox: Outbox, count: int, seconds: float) -> dict[str, float]:
    with flowing(place, outbox) as flow:
        answered = flow.at_rates([RATE], seconds)
        appear(outbox, count)
        rate, cost = follow(place, [flow.relay], flow.consumer, outbox.engine, count)
    named = {f"{name} {at}": ms for at, found in answered.items() for name, ms in found.items() if name.endswith(" ms")}
    return {"rows/s": rate, **cost, **named}
