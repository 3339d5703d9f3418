"""A server process that ends with the process that started it."""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

READY_SECONDS = 90.0
_PR_SET_PDEATHSIG = 1


class ServiceError(Exception):
    """A service cannot run on this machine; the message says what is missing and how to install it."""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A server process with a log file.

    Args:
        command: command line.
        log: file for its output.
        ready: returns whether the server is ready; polled until a deadline.
        environ: variables added to this process's environment.
        user: id of the user to run as, which needs root; None for the current user.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self._command, self._log, self._ready = list(command), log, ready
        self._environ = {**os.environ, **(environ or {})}
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        if self._process is None:
            raise ServiceError(f"{self._command[0]} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it is ready.

        Raises:
            ServiceError: it ended or was not ready in time; the message has the end of its log.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the server without waiting."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environ,
                user=self._user,
                group=self._user and pwd.getpwuid(self._user).pw_gid,
                extra_groups=None if self._user is None else [],
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into libc, no locks taken
            )

    def wait_ready(self) -> None:
        """Wait until the server is ready.

        Raises:
            ServiceError: it ended or was not ready in time; the message has the end of its log.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready():
            if not self.running() or time.monotonic() > deadline:
                self.kill()
                tail = self._log.read_text(errors="replace")[-2000:]
                raise ServiceError(f"{self._command[0]} did not become ready; its log ends with:\n{tail}")
            time.sleep(0.05)

    def running(self) -> bool:
        """Return whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Send a signal and wait until the process ends; kill it after 20 s."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signal_number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill the process (-9)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop the process (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)
