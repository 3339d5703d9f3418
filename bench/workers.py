"""Workers: maximum requests/s of the webhook by number of processes and threads, in alternation."""

from itertools import product
from typing import Any

from bench.environment import Environment
from bench.ingest import CONNECTIONS, WARM_UP_SECONDS
from bench.load import closed_loop
from bench.report import spread
from testkit.web_process import WebProcess

PROCESSES = (1, 2, 4)
THREADS = (4, 16, 32)


def measure(environment: Environment, database: str, shards: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the requests/s and the p99 latency for each ``WEB_CONCURRENCY`` and ``WEB_THREADS``."""
    figures: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for choice in product(PROCESSES, THREADS):
            figures.setdefault(choice, []).append(_round(environment, database, shards, *choice, seconds))
    return {
        f"{processes} processes, {threads} threads": {
            "requests/s": spread([rate for rate, _ in runs]),
            "p99 ms": spread([p99 for _, p99 in runs], 1),
        }
        for (processes, threads), runs in figures.items()
    }


def _round(
    environment: Environment, database: str, shards: int, processes: int, threads: int, seconds: float
) -> tuple[float, float]:
    environ = {
        "DATABASE_URL": environment.make(database, shards),
        "WEB_CONCURRENCY": str(processes),
        "WEB_THREADS": str(threads),
        "LOG_LEVEL": "WARNING",
    }
    web = WebProcess(environ, environment.folder / "web.log")
    try:
        closed_loop(web.port, CONNECTIONS, min(WARM_UP_SECONDS, seconds))
        load = closed_loop(web.port, CONNECTIONS, seconds)
        return load.per_second, load.percentile_ms(0.99)
    finally:
        web.stop()
