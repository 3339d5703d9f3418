"""docs/tutorial.md is a test: every command from ``make up`` on runs in order, and its output is compared."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.setting_names import KNOWN_NAMES
from testkit import ROOT
from testkit.document import Step, matches, pattern, steps
from testkit.waiting import DEADLINE_SECONDS, wait_until

DOCUMENT = ROOT / "docs/tutorial.md"
RETRIED = re.compile(r"relay (status|list|show)\b")
"""Commands that are repeated until they print what is shown, because the relay needs time to catch up."""
PRINTED = re.compile(r"^  ((?:curl|export) (?:.*\\\n)*.*)$", re.MULTILINE)
"""The commands that ``make up`` prints to be pasted."""


class Terminals:
    """The two terminals of the tutorial."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._output = folder / "up.out"
        self._exports: list[str] = []
        self._second = False
        (folder / ".curlrc").write_text("silent\n")
        self._environ = {
            **{name: value for name, value in os.environ.items() if name not in KNOWN_NAMES},
            "CURL_HOME": str(folder),
            "TMPDIR": str(folder),
        }
        self.up: subprocess.Popen[str] | None = None

    def run(self, step: Step) -> None:
        """Run one step."""
        if step.event == "second terminal":
            self._second = True
        elif step.event == "Ctrl-C":
            self.stop()
            assert self._output.read_text().endswith("\nstopped\n")
            assert not list(self._folder.glob("outbox-demo-*"))
        elif step.command and not self._second:
            self._start(step)
        elif step.command:
            self._compare(step)

    def stop(self) -> None:
        """Press Ctrl-C in the first terminal."""
        if self.up is not None and self.up.poll() is None:
            os.killpg(self.up.pid, signal.SIGINT)
            self.up.wait(DEADLINE_SECONDS)

    def _start(self, step: Step) -> None:
        assert step.command == "make up"
        self.up = self._open("make -o .venv/installed up", self._output)  # which make test has installed
        expected = pattern(step.expected)
        wait_until(lambda: expected.fullmatch(self._output.read_text().strip("\n")), "make up prints what is shown")

    def _compare(self, step: Step) -> None:
        line = self._pasted(step.command)
        if line.startswith("export "):
            self._exports.append(line)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not matches(printed := self._run(line, step.expected), step.expected):
            again = RETRIED.match(line) and time.monotonic() < deadline
            assert again, f"$ {line}\nprinted:\n{printed}\nexpected:\n{step.expected}"
            time.sleep(0.2)

    def _pasted(self, line: str) -> str:
        """The command as ``make up`` has printed it, if the tutorial leaves a part of it open."""
        if "…" not in line:
            return line
        (found,) = [each for each in PRINTED.findall(self._output.read_text()) if pattern(line).fullmatch(each)]
        return str(found)

    def _run(self, line: str, expected: str) -> str:
        """Run a command, until it ends or, where the tutorial shows ``^C``, until it has printed the rest."""
        shown, interrupted, _ = expected.partition("^C")
        output = self._folder / "second.out"
        process = self._open("\n".join([*self._exports, line]), output)
        if interrupted:
            wait_until(lambda: shown.strip() in output.read_text() or process.poll() is not None, f"{line} prints")
            os.killpg(process.pid, signal.SIGINT)
        process.wait(DEADLINE_SECONDS)
        return output.read_text() + interrupted

    def _open(self, script: str, output: Path) -> subprocess.Popen[str]:
        with output.open("w") as out:
            return subprocess.Popen(
                ["bash", "-c", script], cwd=ROOT, env=self._environ, stdout=out, stderr=out, text=True,
                start_new_session=True,
            )  # fmt: skip


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    """Two terminals in a checkout. What is left running is stopped, and the consumer's file removed."""
    opened = Terminals(tmp_path)
    yield opened
    opened.stop()
    (ROOT / "interactions.db").unlink(missing_ok=True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
def test_the_tutorial(terminals: Terminals) -> None:
    """Each command prints what the tutorial shows, and Ctrl-C stops everything and leaves no file."""
    text = DOCUMENT.read_text()
    document = list(steps(text))
    assert sum(bool(step.command) for step in document) == text.count("\n$ ")
    for step in document:
        terminals.run(step)
