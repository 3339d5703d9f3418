"""Workers: the most that the webhook takes by processes and threads, each in turn on an outbox of its own."""

from itertools import product
from typing import Any

from bench.environment import Environment
from bench.ingest import CONNECTIONS, WARM_UP_SECONDS
from bench.load import closed_loop
from bench.report import spread
from testkit.web_process import WebProcess

PROCESSES = (1, 2, 4)
THREADS = (4, 16, 32)


def measure(place: Environment, kind: str, shards: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Requests a second and the answers' p99, by ``WEB_CONCURRENCY`` and ``WEB_THREADS``."""
    figures: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for choice in product(PROCESSES, THREADS):
            figures.setdefault(choice, []).append(_round(place, kind, shards, *choice, seconds))
    return {
        f"{processes} x {threads}": {
            "requests/s": spread([rate for rate, _ in found]),
            "p99 ms": spread([p99 for _, p99 in found], 1),
        }
        for (processes, threads), found in figures.items()
    }


def _round(
    place: Environment, kind: str, shards: int, processes: int, threads: int, seconds: float
) -> tuple[float, float]:
    environ = {
        "DATABASE_URL": place.make(kind, shards),
        "WEB_CONCURRENCY": str(processes),
        "WEB_THREADS": str(threads),
        "LOG_LEVEL": "WARNING",
    }
    web = WebProcess(environ, place.folder / "web.log")
    try:
        closed_loop(web.port, CONNECTIONS, min(WARM_UP_SECONDS, seconds))
        load = closed_loop(web.port, CONNECTIONS, seconds)
        return load.per_second, load.percentile_ms(0.99)
    finally:
        web.stop()
