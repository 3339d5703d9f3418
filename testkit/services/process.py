"""A server process of ours: started, waited for, killed, paused, and never left behind."""

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

READY_SECONDS = 90.0
_PR_SET_PDEATHSIG = 1


class ServiceError(Exception):
    """A service cannot be had on this machine; the message says what is missing and how to get it."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One server process with a log file.

    Args:
        command: to run.
        log: file that receives what it prints.
        ready: returns True once it serves; called again and again until a deadline.
        environ: added to this process's environment.
        user: to run as (only root can choose), or None.
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
        """Of the running process."""
        if self._process is None:
            raise ServiceError(f"{self._command[0]} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it serves.

        Raises:
            ServiceError: it ended, or does not serve in time; with the end of its log.
        """
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
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self._log.read_text(errors="replace")[-2000:]
                raise ServiceError(f"{self._command[0]} does not serve; its log ends:\n{tail}")
            time.sleep(0.05)

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """Ask it to end and wait for it; killed after 20 s."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(sign)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
