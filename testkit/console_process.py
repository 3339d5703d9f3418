"""The console as it runs in production: gunicorn on a real socket; and a browser of it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import requests

from testkit import ROOT
from testkit.console import KEY, PASSWORD, write_users
from testkit.services.process import free_port
from testkit.waiting import wait_until

COMMAND = [
    *(sys.executable, "-m", "gunicorn"),
    *("-c", "python:console.gunicorn_conf", "console.factory:create_app_from_environ()"),
]


def console_environ(folder: Path, url: str, port: int) -> dict[str, str]:
    """Return the settings of a console, with a user of each role in a file in this folder."""
    return {
        **os.environ,
        "DATABASE_URL": url,
        "CONSOLE_AUTH": "file",
        "CONSOLE_SECRET_KEY": KEY,
        "CONSOLE_USERS_FILE": str(write_users(folder)),
        "CONSOLE_PORT": str(port),
        "LOG_FORMAT": "json",
    }


class ConsoleProcess(NamedTuple):
    """A running console."""

    base: str
    """Its address."""
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def worker(self) -> psutil.Process:
        """The process that answers requests."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def is_alive(self) -> bool:
        """Return whether it answers.

        Raises:
            AssertionError: it has ended.
        """
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.base}/healthz", timeout=2).ok
        except requests.RequestException:
            return False


@contextmanager
def running_console(url: str, folder: Path, **environ: str) -> Iterator[ConsoleProcess]:
    """Run a console for the block.

    Args:
        url: of the database.
        folder: for its users and its log.
        environ: further settings.
    """
    port, log = free_port(), folder / "console.log"
    with log.open("ab") as file:
        settings = {**console_environ(folder, url, port), **environ}
        process = subprocess.Popen(COMMAND, cwd=ROOT, env=settings, stdout=file, stderr=file)
    console = ConsoleProcess(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until(console.is_alive, f"the console is up ({log})")
        yield console
    finally:
        process.terminate()
        process.wait(40)


class Browser:
    """A session of a user.

    Args:
        console: to sign in to.
        name: of the user.
    """

    def __init__(self, console: ConsoleProcess, name: str) -> None:
        self._base, self._session = console.base, requests.Session()
        self._token = self._find_token("/login")
        self.post("/login", username=name, password=PASSWORD)
        self._token = self._find_token("/")

    def _find_token(self, path: str) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def get(self, path: str) -> requests.Response:
        """Request a page."""
        return self._session.get(self._base + path, timeout=60)

    def post(self, path: str, **fields: str) -> requests.Response:
        """Send a form; redirects are not followed."""
        data = {"csrf_token": self._token, **fields}
        return self._session.post(self._base + path, data=data, timeout=300, allow_redirects=False)
