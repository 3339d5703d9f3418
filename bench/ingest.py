"""Ingest: the webhook with durable commits, beside what it is compared with.

Five sides, in turn within each round: the webhook · a bare Flask route under the same gunicorn
settings, the most that could be reached · that route when it waits for another thread · the webhook
when nothing is committed · the webhook with one commit for each request, what is usual. Then the
answer's latency at a fixed rate. The generator's own CPU is told, to show that it is not what is
measured.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import psutil

from bench.environment import Environment
from bench.load import Load, closed_loop, open_loop
from bench.report import ratio, spread
from testkit import ROOT
from testkit.services.process import free_port
from testkit.waiting import wait_until
from testkit.web_process import SECRET, WebProcess

CONNECTIONS = 32
FIXED_PER_SECOND = 500
WARM_UP_SECONDS = 1.0


class Side(Protocol):
    """A gunicorn that is put under load."""

    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> int:
        """End it."""


class Bare:
    """gunicorn with another application and the same settings; parameters as ``WebProcess``, and the application."""

    def __init__(self, environ: Mapping[str, str], log: Path, application: str) -> None:
        self.port = free_port()
        given = {"CXONE_WEBHOOK_SECRETS": f"tests={SECRET}", "WEB_HOST": "127.0.0.1", **environ}
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", application],
                cwd=ROOT,
                env={**os.environ, **given, "PORT": str(self.port)},
                stdout=file,
                stderr=file,
            )
        wait_until(self._answers, f"{application} answers ({log})")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "it has ended, its log says why"
        try:
            return closed_loop(self.port, 1, 0).answered == 1
        except OSError:
            return False

    def stop(self) -> int:
        """SIGTERM, and wait."""
        self.process.terminate()
        return self.process.wait(40)


def measure(place: Environment, kind: str, shards: int, seconds: float, rounds: int, processes: int) -> dict[str, Any]:
    """Figures of one kind of database; so many seconds of load for each side and round."""
    folder = place.folder
    with ExitStack() as stack:

        def environ() -> dict[str, str]:
            url = place.make(kind, shards)
            return {"DATABASE_URL": url, "WEB_CONCURRENCY": str(processes), "LOG_LEVEL": "WARNING"}

        sides: dict[str, Side] = {
            "webhook": WebProcess(environ(), folder / "web.log"),
            "bare Flask route": Bare(environ(), folder / "bare.log", "bench.bare:app"),
            "bare, handed over": Bare(environ(), folder / "handed.log", "bench.bare:handed_over()"),
            "nothing committed": Bare(environ(), folder / "nothing.log", "bench.bare:nothing_committed()"),
            "one commit a request": Bare(environ(), folder / "single.log", "bench.bare:one_commit_a_request()"),
        }
        for side in sides.values():
            stack.callback(side.stop)
            closed_loop(side.port, CONNECTIONS, min(WARM_UP_SECONDS, seconds))
        runs: dict[str, list[tuple[Load, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                before = _cpu_seconds(side)
                load = closed_loop(side.port, CONNECTIONS, seconds)
                runs[name].append((load, _cpu_seconds(side) - before))
        latency = open_loop(sides["webhook"].port, FIXED_PER_SECOND, seconds)
    told: dict[str, Any] = {name: _told(run) for name, run in runs.items()}
    for name in sides.keys() - {"webhook"}:
        told[f"webhook / {name}"] = ratio(
            [load.per_second for load, _ in runs["webhook"]], [load.per_second for load, _ in runs[name]]
        )
    told[f"answer at {FIXED_PER_SECOND}/s"] = _latency(latency)
    return told


def _cpu_seconds(side: Side) -> float:
    times = [worker.cpu_times() for worker in psutil.Process(side.process.pid).children()]
    return sum(each.user + each.system for each in times)


def _told(runs: list[tuple[Load, float]]) -> dict[str, Any]:
    rates = [load.per_second for load, _ in runs]
    return {
        "requests/s": spread(rates),
        "web CPU us/request": round(median(cpu / load.answered * 1e6 for load, cpu in runs)),
        "generator CPU us/request": round(median(load.cpu_seconds / load.answered * 1e6 for load, _ in runs)),
        "generator's share of a core": round(max(load.cpu_seconds / load.seconds for load, _ in runs), 2),
        "refused": sum(load.refused for load, _ in runs),
    }


def _latency(load: Load) -> dict[str, Any]:
    return {
        "p50 ms": round(load.percentile_ms(0.5), 1),
        "p99 ms": round(load.percentile_ms(0.99), 1),
        "max ms": round(load.percentile_ms(1.0), 1),
        "refused": load.refused,
    }
