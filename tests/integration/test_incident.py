"""docs/incident.md is a test: every command runs in order, and its output is compared."""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from testkit import ROOT
from testkit.command_line import command
from testkit.deployment import Deployment
from testkit.document import Step, matches, steps
from testkit.inference_endpoint import InferenceEndpoint
from testkit.services.kafka import install_scripts
from testkit.waiting import DEADLINE_SECONDS
from testkit.web_process import PATH, SECRET

DOCUMENT = ROOT / "docs/incident.md"
RETRIED = re.compile(r"relay (status|list|show|audit|check)\b")
"""Commands that are repeated until they print what is expected, because the relay needs time to catch up."""


class Incident:
    """Runs the steps of the document on one deployment."""

    def __init__(self, deployment: Deployment, inference: InferenceEndpoint, folder: Path) -> None:
        self._deployment = deployment
        inference.start()
        deployment.environ["INFERENCE_URL"] = inference.url
        web = deployment.web()
        deployment.relay()
        install_scripts(folder)
        self._environ = {
            **os.environ,
            **deployment.environ,
            "WEBHOOK": f"{web.base}{PATH}",
            "SECRET": SECRET,
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        self._events: dict[str, Callable[[], None]] = {
            "web, relay and inference run": lambda: None,
            "inference stops": inference.stop,
            "inference starts": inference.start,
            "the order is kept": self._order_is_kept,
            "the topic accepts 500 bytes": lambda: self._limit(500),
            "the topic accepts 1048588 bytes": lambda: self._limit(1_048_588),
        }

    def run(self, step: Step) -> None:
        """Run one step."""
        if step.event:
            self._events[step.event]()
            return
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not matches(printed := self._run(step.command), step.expected):
            again = RETRIED.match(step.command) and time.monotonic() < deadline
            assert again, f"$ {step.command}\nprinted:\n{printed}\nexpected:\n{step.expected}"
            time.sleep(0.2)

    def _run(self, line: str) -> str:
        if line.startswith("relay "):
            ended = command(self._deployment.environ, *shlex.split(line)[1:])
            return ended.stderr + ended.stdout if "--yes" in line or "--dry-run" in line else ended.stdout
        done = subprocess.run(
            ["bash", "-c", line], env=self._environ, capture_output=True, text=True, check=False, timeout=120
        )
        return done.stdout

    def _limit(self, limit: int) -> None:
        servers, topic = self._deployment.environ["KAFKA_BOOTSTRAP_SERVERS"], self._deployment.topic
        self._run(
            f"kafka-configs.sh --bootstrap-server {servers} --topic {topic} --alter "
            f"--add-config max.message.bytes={limit}"
        )

    def _order_is_kept(self) -> None:
        ids = [record.outbox_id for record in self._deployment.seen() if record.key == "call-7"]
        assert ids == [1, 2, 3]


def test_the_documented_incident(deployment: Deployment, inference: InferenceEndpoint, tmp_path: Path) -> None:
    """Each command prints what the document shows, on both databases."""
    document = list(steps(DOCUMENT.read_text()))
    assert sum(bool(step.command) for step in document) == DOCUMENT.read_text().count("\n$ ")
    incident = Incident(deployment, inference, tmp_path)
    for step in document:
        incident.run(step)
    assert sorted(record.outbox_id for record in deployment.seen()) == [1, 2, 3, 4, 5, 7]
