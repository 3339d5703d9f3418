"""One attack on one server: what honest clients saw, what the server used, how soon it was over."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

import psutil

from testkit import ROOT
from testkit.web_process import Answer
from tests.attack.honest import Honest, get_health

RECOVERY_SECONDS = 60.0


class Seen(NamedTuple):
    """What one attack did."""

    asked: int
    """Requests of honest clients."""
    failed: list[str]
    """Those without an answer, by error."""
    refused: int
    """Answers that are neither 200 nor 202."""
    p50_ms: float
    p99_ms: float
    health_p99_ms: float
    """Of ``/healthz`` beside."""
    memory_mb: float
    """The most that the server's processes had resident."""
    descriptors: int
    """The most that one of them had open."""
    recovered_seconds: float
    """From the attack's end until ten requests in a row were quick."""
    answers: list[Answer]


def attack(
    kind: str,
    port: int,
    pid: int,
    request: Callable[[int], Answer],
    connections: int,
    seconds: float,
    per_second: float = 20,
) -> Seen:
    """Attack a server of this machine, with honest clients beside.

    Args:
        kind: of ``tests.attack.hostile``.
        port: of the server.
        pid: of the server; its children are watched, too.
        request: what honest clients ask.
        connections: hostile ones, kept up all the time.
        seconds: how long.
        per_second: honest requests a second.
    """
    command = [sys.executable, "-m", "tests.attack.hostile", kind, str(port), str(connections), str(seconds)]
    with _Usage(pid) as usage:
        with Honest(port, request, per_second) as honest, Honest(port, get_health, 5) as probes:
            subprocess.run(command, cwd=ROOT, check=True)
            ended = time.monotonic()
        _wait_quick(port, request)
        recovered = time.monotonic() - ended
    return Seen(
        asked=len(honest.answers) + len(honest.failures),
        failed=honest.failures,
        refused=sum(answer.status not in (200, 202) for answer in honest.answers),
        p50_ms=1000 * honest.percentile(0.5),
        p99_ms=1000 * honest.percentile(0.99),
        health_p99_ms=1000 * probes.percentile(0.99),
        memory_mb=usage.memory_mb,
        descriptors=usage.descriptors,
        recovered_seconds=recovered,
        answers=honest.answers,
    )


def _wait_quick(port: int, request: Callable[[int], Answer]) -> None:
    deadline, quick = time.monotonic() + RECOVERY_SECONDS, 0
    while quick < 10 and time.monotonic() < deadline:
        began = time.monotonic()
        with suppress(OSError, AssertionError):
            answered = request(port).status in (200, 202)
            quick = quick + 1 if answered and time.monotonic() - began < 0.5 else 0


class _Usage:
    """Watches a process and its children while the block runs."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.memory_mb, self.descriptors = 0.0, 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            with suppress(psutil.Error):
                processes = [self._process, *self._process.children()]
                self.memory_mb = max(self.memory_mb, sum(p.memory_info().rss for p in processes) / 2**20)
                self.descriptors = max(self.descriptors, *(p.num_fds() for p in processes))
