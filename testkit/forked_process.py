"""A program in Python that is forked from a server that has imported what the product needs.

It starts in a tenth of the CPU time of a new interpreter.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path

from testkit import ROOT
from testkit.waiting import wait_until

IMPORTED = ["relay.process.supervisor", "testkit.trapped_webhook", "gunicorn.app.wsgiapp"]
_lock = threading.Lock()
"""``multiprocessing`` asks for the exit code of every process when it starts one, but it can be read only once."""


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class ForkedProcess:
    """A process that runs a module as a program; to be used like ``subprocess.Popen``.

    Args:
        command: the module, and its arguments.
        environ: its environment.
        log: file for its output.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        with _lock:
            self._process = _context().Process(target=_run, args=(command, dict(environ), log), daemon=True)
            self._process.start()
        self.pid: int = self._process.pid or 0
        """Process id."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        with _lock:
            return self._process.exitcode

    def wait(self, timeout: float = 60) -> int:
        """Wait until the process ends and return its exit code."""
        wait_until(lambda: self.poll() is not None, f"process {self.pid} ends", timeout)
        return self.poll() or 0

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process (-9)."""
        self.send_signal(signal.SIGKILL)


def _run(command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environ)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    """Kill this process once the one that wanted it has ended, killed or not: the fork server lives as long as this."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
