"""A relay process, as it runs in production, or one that dies or freezes at a chosen step."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from testkit import ROOT
from testkit.forked_process import ForkedProcess
from testkit.ports import free_port
from testkit.waiting import DEADLINE_SECONDS, wait_until


class RelayProcess:
    """A process that runs ``relay run``.

    Args:
        environ: settings, added to this process's environment.
        log: file for its output.
        kill_at: step (see ``relay.shard.worker``) at which it kills itself (-9); None for no step.
        times: occurrence of the step at which it does so.
        freeze_at: step at which it stops itself (SIGSTOP) instead.
        entry: module that runs a relay, and its arguments.
        forked: fork it, which is faster than a new interpreter; only without steps.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        log: Path,
        kill_at: str | None = None,
        times: int = 1,
        freeze_at: str | None = None,
        entry: Sequence[str] = ("relay", "run"),
        *,
        forked: bool = False,
    ) -> None:
        self.metrics_port = free_port()
        self.log = log
        command = [sys.executable, "-m", *entry]
        if kill_at:
            command = [sys.executable, "-m", "relay.demo.crash", kill_at, str(times)]
        if freeze_at:
            command = [sys.executable, "-m", "testkit.freeze", freeze_at, str(times)]
        settings = {**os.environ, **environ, "RELAY_METRICS_PORT": str(self.metrics_port), "LOG_FORMAT": "json"}
        if forked:
            self._process: subprocess.Popen[bytes] | ForkedProcess = ForkedProcess(entry, settings, log)
            return
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def running(self) -> bool:
        """Return whether the process is alive."""
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def frozen(self) -> bool:
        """Return whether the process is stopped (SIGSTOP)."""
        return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def wait(self, seconds: float = 60) -> int:
        """Wait until the process ends and return its exit code."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """Send SIGTERM, wait until the process ends, and return its exit code."""
        if self.running():
            self._process.send_signal(signal.SIGTERM)
        return self.wait(DEADLINE_SECONDS)  # it may take 20 s for its work, and some more for its exit

    def kill(self) -> None:
        """Kill the process (-9)."""
        self._process.kill()
        self._process.wait()

    def get(self, path: str) -> str:
        """Return the body of a GET on the relay's HTTP port, or an empty string if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def metric(self, line: str) -> float | None:
        """Return the value of a metric; None if it is missing."""
        for found in self.get("/metrics").splitlines():
            if found.startswith(f"{line} "):
                return float(found.split()[-1])
        return None

    def committed_transactions(self) -> float:
        """Return how many Kafka transactions this process has committed, from its metrics."""
        return self.metric("cxone_kafka_transaction_commits_total") or 0.0

    def degraded(self) -> dict[str, str]:
        """Return the reason for each degraded subject, from ``/readyz``."""
        body = self.get("/readyz")
        return {item["subject"]: item["reason"] for item in json.loads(body)["degraded"]} if body else {}

    def wait_degraded(self, subject: str, text: str) -> None:
        """Wait until the relay reports the subject as degraded for a reason that contains ``text``."""
        wait_until(lambda: text in self.degraded().get(subject, ""), f"{subject} is degraded: {text} ({self.log})")

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the log's JSON lines, parsed."""
        for line in self.log.read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)
