"""A relay as a process of its own, as it runs in production, or one that dies at a chosen step."""

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
from testkit.services.process import free_port
from testkit.waiting import wait_until


class RelayProcess:
    """``relay run``.

    Args:
        environ: its settings.
        log: file that receives what it prints.
        kill_at: name of a step at which it kills itself (-9), as in ``relay.shard.worker``; None: none.
        times: at which occurrence of that step.
        freeze_at: as ``kill_at``, but it stops itself (SIGSTOP).
        entry: a module that runs a relay, and its arguments.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        log: Path,
        kill_at: str | None = None,
        times: int = 1,
        freeze_at: str | None = None,
        entry: Sequence[str] = ("relay", "run"),
    ) -> None:
        self.metrics_port = free_port()
        self.log = log
        command = [sys.executable, "-m", *entry]
        if kill_at:
            command = [sys.executable, "-m", "relay.demo.crash", kill_at, str(times)]
        if freeze_at:
            command = [sys.executable, "-m", "testkit.freeze", freeze_at, str(times)]
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ,
                    **environ,
                    "RELAY_METRICS_PORT": str(self.metrics_port),
                    "LOG_FORMAT": "json",
                },
                stdout=file,
                stderr=file,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it is alive."""
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def frozen(self) -> bool:
        """Whether it is stopped (SIGSTOP)."""
        return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and wait."""
        if self.running():
            self._process.send_signal(signal.SIGTERM)
        return self.wait(30)

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()
        self._process.wait()

    def get(self, path: str) -> str:
        """What its own HTTP port answers; empty while it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def committed_transactions(self) -> float:
        """Kafka transactions that this process has committed, from its metrics."""
        for line in self.get("/metrics").splitlines():
            if line.startswith("cxone_kafka_transaction_commits_total "):
                return float(line.split()[-1])
        return 0.0

    def degraded(self) -> dict[str, str]:
        """Subject to reason, from ``/readyz``."""
        body = self.get("/readyz")
        return {item["subject"]: item["reason"] for item in json.loads(body)["degraded"]} if body else {}

    def wait_degraded(self, subject: str, text: str) -> None:
        """Wait until it says that the subject waits, for a reason that holds ``text``."""
        wait_until(lambda: text in self.degraded().get(subject, ""), f"{subject} waits: {text} ({self.log})")

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its log lines."""
        for line in self.log.read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)
