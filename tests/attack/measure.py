"""Run one attack on one server, and measure its effect on honest clients and on the server's resources."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psutil

from testkit import ROOT
from testkit.background import BackgroundTask
from testkit.web_process import RawResponse
from tests.attack.honest import HonestClients, get_health

RECOVERY_SECONDS = 60.0


class AttackResult(NamedTuple):
    """The effect of one attack."""

    requests: int
    """Requests of honest clients."""
    failed: list[str]
    """Errors of requests without a response."""
    refused: int
    """Responses other than 200 and 202."""
    p50_ms: float
    p99_ms: float
    health_p99_ms: float
    """Of concurrent requests to ``/healthz``."""
    memory_mb: float
    """Largest resident memory of the server's processes together."""
    descriptors: int
    """Most open descriptors of one process."""
    recovered_seconds: float
    """From the end of the attack until ten requests in a row were fast."""
    answers: list[RawResponse]


def attack(
    kind: str,
    port: int,
    pid: int,
    request: Callable[[int], RawResponse],
    connections: int,
    seconds: float,
    per_second: float = 20,
) -> AttackResult:
    """Attack a server on this machine while honest clients use it.

    Args:
        kind: A key of ``hostile.KINDS``.
        port: The server's port.
        pid: The server's process; its children are measured as well.
        request: Sends one request of an honest client.
        connections: Number of hostile connections.
        seconds: Duration of the attack.
        per_second: Honest requests a second.
    """
    command = [sys.executable, "-m", "tests.attack.hostile", kind, str(port), str(connections), str(seconds)]
    with _Usage(pid) as usage:
        with HonestClients(port, request, per_second) as honest, HonestClients(port, get_health, 5) as probes:
            subprocess.run(command, cwd=ROOT, check=True)
            ended = time.monotonic()
        _wait_until_fast(port, request)
        recovered = time.monotonic() - ended
    return AttackResult(
        requests=len(honest.answers) + len(honest.failures),
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


def _wait_until_fast(port: int, request: Callable[[int], RawResponse]) -> None:
    deadline, fast = time.monotonic() + RECOVERY_SECONDS, 0
    while fast < 10 and time.monotonic() < deadline:
        began = time.monotonic()
        with suppress(OSError, AssertionError):
            answered = request(port).status in (200, 202)
            fast = fast + 1 if answered and time.monotonic() - began < 0.5 else 0


class _Usage(BackgroundTask):
    """Watches a process and its children while the block runs."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._process = psutil.Process(pid)
        self.memory_mb, self.descriptors = 0.0, 0

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            with suppress(psutil.Error):
                processes = [self._process, *self._process.children()]
                self.memory_mb = max(self.memory_mb, sum(p.memory_info().rss for p in processes) / 2**20)
                self.descriptors = max(self.descriptors, *(p.num_fds() for p in processes))
