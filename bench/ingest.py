"""Ingest: requests a second of the webhook with durable commits, compared with simpler applications.

Five applications alternate within each round: the webhook; a bare Flask route with the same gunicorn settings, the
upper bound; that route when it waits for another thread; the webhook without a database; and the webhook with one
commit per request, the usual design. Afterwards the webhook's latency is measured at a fixed rate. The CPU time of
the load generator is reported to show that it is not the bottleneck.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import psutil

from bench.environment import Environment
from bench.load import LoadResult, closed_loop, open_loop
from bench.report import ratio, spread
from relay.demo.ports import free_port
from testkit import ROOT
from testkit.forked_process import ForkedProcess
from testkit.waiting import wait_until
from testkit.web_process import APPLICATION, SECRET, WebProcess

CONNECTIONS = 32
FIXED_RATE = 500
WARM_UP_SECONDS = 1.0
APPLICATIONS = {
    "webhook": None,
    "bare Flask route": "bench.bare:app",
    "bare Flask route, second thread": "bench.bare:second_thread()",
    "webhook without database": "bench.bare:without_database()",
    "one commit per request": "bench.bare:one_commit_per_request()",
}
"""Name of each side to its application; None for the product's own."""


class WebServer(Protocol):
    """A gunicorn process under load."""

    port: int

    @property
    def process(self) -> subprocess.Popen[bytes] | ForkedProcess:
        """The master."""

    def stop(self) -> int:
        """Stop it and return its exit code."""


class Gunicorn:
    """gunicorn with the product's settings and another application.

    Args:
        environ: settings.
        log: file for its output.
        application: the WSGI application, as gunicorn takes it.
    """

    def __init__(self, environ: Mapping[str, str], log: Path, application: str) -> None:
        self.port = free_port()
        settings = {"CXONE_WEBHOOK_SECRETS": f"tests={SECRET}", "WEB_HOST": "127.0.0.1", **environ}
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", application],
                cwd=ROOT,
                env={**os.environ, **settings, "PORT": str(self.port)},
                stdout=file,
                stderr=file,
            )
        wait_until(self._answers, f"{application} answers (log in {log})")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "gunicorn has ended; see its log"
        try:
            return closed_loop(self.port, 1, 0).accepted == 1
        except OSError:
            return False

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self.process.terminate()
        return self.process.wait(40)


class Run(NamedTuple):
    """One round of load on one application."""

    load: LoadResult
    cpu_seconds: float
    """CPU time of the application's workers."""


def measure(
    environment: Environment, database: str, shards: int, seconds: float, rounds: int, processes: int
) -> dict[str, Any]:
    """Return the figures for one kind of database, with this many seconds of load for each application and round."""
    with ExitStack() as stack:
        servers = _start_servers(environment, database, shards, processes, stack)
        for server in servers.values():
            closed_loop(server.port, CONNECTIONS, min(WARM_UP_SECONDS, seconds))
        runs: dict[str, list[Run]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                runs[name].append(_run(server, seconds))
        latency = open_loop(servers["webhook"].port, FIXED_RATE, seconds)
    figures: dict[str, Any] = {name: _summary(each) for name, each in runs.items()}
    for name in (name for name in servers if name != "webhook"):
        figures[f"webhook / {name}"] = ratio(_rates(runs["webhook"]), _rates(runs[name]))
    figures[f"latency at {FIXED_RATE}/s"] = _latency(latency)
    return figures


def _start_servers(
    environment: Environment, database: str, shards: int, processes: int, stack: ExitStack
) -> dict[str, WebServer]:
    def start(name: str, application: str | None) -> WebServer:
        environ = {
            "DATABASE_URL": environment.make(database, shards),
            "WEB_CONCURRENCY": str(processes),
            "LOG_LEVEL": "WARNING",
        }
        log = environment.folder / f"{name.replace(' ', '-')}.log"
        server = Gunicorn(environ, log, application) if application else WebProcess(environ, log)
        stack.callback(server.stop)
        return server

    return {name: start(name, application) for name, application in APPLICATIONS.items()}


def _run(server: WebServer, seconds: float) -> Run:
    before = cpu_seconds(server)
    load = closed_loop(server.port, CONNECTIONS, seconds)
    return Run(load, cpu_seconds(server) - before)


def start_webhook(
    environment: Environment,
    database: str,
    shards: int,
    stack: ExitStack,
    application: str = APPLICATION,
    **environ: str,
) -> WebProcess:
    """Start the webhook, or another application in its place, on a new outbox, until the stack is closed."""
    url = environment.make(database, shards)
    log = environment.folder / f"web-{len(list(environment.folder.glob('web-*')))}.log"
    server = WebProcess({"DATABASE_URL": url, "LOG_LEVEL": "WARNING", **environ}, log, application)
    stack.callback(server.stop)
    return server


def append_cost(server: WebServer, seconds: float, measured: dict[str, list[float]]) -> None:
    """Put a server under load for this long, and append its rate and the CPU time of a request."""
    run = _run(server, seconds)
    measured["requests/s"].append(run.load.per_second)
    measured["web CPU us/request"].append(run.cpu_seconds / run.load.accepted * 1e6)


def cpu_seconds(server: WebServer) -> float:
    """Return the CPU time used so far by the processes that answer requests."""
    times = [worker.cpu_times() for worker in psutil.Process(server.process.pid).children()]
    return sum(each.user + each.system for each in times)


def _rates(runs: list[Run]) -> list[float]:
    return [run.load.per_second for run in runs]


def _summary(runs: list[Run]) -> dict[str, Any]:
    loads = [run.load for run in runs]
    return {
        "requests/s": spread(_rates(runs)),
        "web CPU us/request": round(median(run.cpu_seconds / run.load.accepted * 1e6 for run in runs)),
        "generator CPU us/request": round(median(load.cpu_seconds / load.accepted * 1e6 for load in loads)),
        "generator CPU share of a core": round(max(load.cpu_seconds / load.seconds for load in loads), 2),
        "refused": sum(load.refused for load in loads),
    }


def _latency(load: LoadResult) -> dict[str, Any]:
    return {
        "p50 ms": round(load.percentile_ms(0.5), 1),
        "p99 ms": round(load.percentile_ms(0.99), 1),
        "max ms": round(load.percentile_ms(1.0), 1),
        "refused": load.refused,
    }
