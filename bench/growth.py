"""Growth: the same backlog drained, and the same load answered, with no history and with much, in turn.

Each history is made once; every round works on a copy of it. What operators wait for is measured by
``bench.operators``, what a long backlog costs by ``bench.backlog``.
"""

from typing import Any

from bench.drain import drain
from bench.latency import latencies
from bench.place import Outbox, Place, fill
from bench.report import ratio, spread
from bench.rows import add_history
from outbox.engine import create_outbox_engine

RATE = 100
"""Of the load whose latency is taken, in requests a second."""


def measure(
    place: Place, kind: str, count: int, history: list[int], rounds: int, shards: int, seconds: float
) -> dict[str, Any]:
    """Figures by rows of history; ratios against the first."""
    figures: dict[int, dict[str, list[float]]] = {size: {} for size in history}
    urls = {size: _with_history(place, kind, shards, size) for size in history}
    for _ in range(rounds):
        for size in history:
            with place.outbox(kind, shards, urls[size]) as outbox:
                for name, value in _round(place, outbox, count, seconds).items():
                    figures[size].setdefault(name, []).append(value)
    return {
        f"{size:,} rows of history": {
            **{name: spread(values, 1) for name, values in found.items()},
            f"rows/s, of that with {history[0]:,}": ratio(found["rows/s"], figures[history[0]]["rows/s"]),
        }
        for size, found in figures.items()
    }


def _with_history(place: Place, kind: str, shards: int, size: int) -> str:
    url = place.make(kind, shards)
    engine = create_outbox_engine(url)
    add_history(engine, size, shards)
    engine.dispose()
    return url


def _round(place: Place, outbox: Outbox, count: int, seconds: float) -> dict[str, float]:
    (answered,) = latencies(place, outbox, [RATE], seconds).values()
    fill(outbox.engine, count)
    rate, cost = drain(place, outbox, count)
    named = {f"{name} at {RATE}/s": value for name, value in answered.items() if name.endswith(" ms")}
    return {"rows/s": rate, **cost, **named}
