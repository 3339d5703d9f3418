"""docs/incident.md is run as it stands: every command, in order, and what it prints is compared."""

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from testkit import ROOT
from testkit.command_line import command
from testkit.deployment import Deployment
from testkit.services.java import java
from testkit.services.kafka import jars
from testkit.services.process import free_port
from testkit.waiting import DEADLINE_SECONDS
from testkit.web_process import PATH, SECRET

DOCUMENT = ROOT / "docs/incident.md"
PART = re.compile(r"^```console\n(?P<block>.*?)^```$|^<!-- stage: (?P<stage>.*?) -->$", re.MULTILINE | re.DOTALL)
LOOKING = re.compile(r"relay (status|list|show|audit|check)\b")
"""What may be asked again until the answer is the one that is told: the relay works meanwhile."""


class Step(NamedTuple):
    """A command with what it prints, or something that happens on the stage."""

    command: str
    printed: str
    stage: str = ""


def steps(document: str) -> Iterator[Step]:
    """The document as it is to be played."""
    for part in PART.finditer(document):
        if part["stage"]:
            yield Step("", "", part["stage"])
            continue
        for each in part["block"].removeprefix("$ ").split("\n$ "):
            line, _, printed = each.partition("\n")
            yield Step(line, printed.strip("\n"))


def as_told(printed: str, told: str) -> bool:
    """Whether that was printed which the document tells; ``…`` stands for anything."""
    pattern = ".*".join(re.escape(piece) for piece in told.split("…"))
    return bool(re.fullmatch(pattern, printed.strip("\n"), re.DOTALL))


class Inference:
    """An endpoint that can die and come back at the same address."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/score"
        self._server: ThreadingHTTPServer | None = None

    def answers(self) -> None:
        """Serve."""

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_OPTIONS = _answer  # noqa: N815

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def dies(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def inference() -> Iterator[Inference]:
    """An endpoint for one test."""
    made = Inference()
    yield made
    made.dies()


class Play:
    """The document, played in one world."""

    def __init__(self, deployment: Deployment, inference: Inference, folder: Path) -> None:
        self._world, self._inference = deployment, inference
        inference.answers()
        deployment.environ["INFERENCE_URL"] = inference.url
        web = deployment.web()
        deployment.relay()
        self._tools(folder)
        self._environ = {
            **os.environ,
            **deployment.environ,
            "WEBHOOK": f"{web.base}{PATH}",
            "SECRET": SECRET,
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        self._stages: dict[str, Callable[[], None]] = {
            "web and relay run, inference answers": lambda: None,
            "inference dies": inference.dies,
            "inference answers": inference.answers,
            "the order is kept": self._order_is_kept,
            "the topic takes 500 bytes": lambda: self._limit(500),
            "the topic takes 1048588 bytes": lambda: self._limit(1_048_588),
        }

    def _tools(self, folder: Path) -> None:
        """Kafka's own script for settings, as its distribution has it."""
        script = folder / "kafka-configs.sh"
        script.write_text(f'#!/bin/sh\nexec "{java(17)}" -cp "{jars()}/*" kafka.admin.ConfigCommand "$@"\n')
        script.chmod(0o755)

    def step(self, step: Step) -> None:
        """Play one step."""
        if step.stage:
            self._stages[step.stage]()
            return
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not as_told(printed := self._run(step.command), step.printed):
            again = LOOKING.match(step.command) and time.monotonic() < deadline
            assert again, f"$ {step.command}\nprinted:\n{printed}\ntold:\n{step.printed}"
            time.sleep(0.2)

    def _run(self, line: str) -> str:
        if line.startswith("relay "):
            ended = command(self._world.environ, *shlex.split(line)[1:])
            return ended.stderr + ended.stdout if "--yes" in line or "--dry-run" in line else ended.stdout
        done = subprocess.run(
            ["bash", "-c", line], env=self._environ, capture_output=True, text=True, check=False, timeout=120
        )
        return done.stdout

    def _limit(self, limit: int) -> None:
        servers, topic = self._world.environ["KAFKA_BOOTSTRAP_SERVERS"], self._world.topic
        self._run(
            f"kafka-configs.sh --bootstrap-server {servers} --topic {topic} --alter "
            f"--add-config max.message.bytes={limit}"
        )

    def _order_is_kept(self) -> None:
        ids = [record.outbox_id for record in self._world.seen() if record.key == "call-7"]
        assert ids == [1, 2, 3]


def test_the_incident_goes_as_it_is_told(deployment: Deployment, inference: Inference, tmp_path: Path) -> None:
    """Each command of the document prints what the document says, on both databases."""
    told = list(steps(DOCUMENT.read_text()))
    assert sum(bool(step.command) for step in told) == DOCUMENT.read_text().count("\n$ ")
    play = Play(deployment, inference, tmp_path)
    for step in told:
        play.step(step)
    assert sorted(record.outbox_id for record in deployment.seen()) == [1, 2, 3, 4, 5, 7]
