"""The web process as it runs in production: gunicorn over real sockets."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import requests

from testkit import ROOT
from testkit.services.process import free_port
from testkit.waiting import wait_until

SECRET = "a-secret-of-the-tests"
PATH = "/webhook/cxone-data-action"


class Answer(NamedTuple):
    """A raw HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class WebProcess:
    """gunicorn with the application.

    Args:
        environ: its settings.
        log: file that receives what it prints.
    """

    def __init__(self, environ: Mapping[str, str], log: Path) -> None:
        self.port, self.log = free_port(), log
        self.base = f"http://127.0.0.1:{self.port}"
        settings = {
            "CXONE_WEBHOOK_SECRETS": f"tests={SECRET}",
            "WEB_CONCURRENCY": "1",
            "WEB_HOST": "127.0.0.1",
        }
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf"),
                    "app.factory:create_app_from_environ()",
                ],
                cwd=ROOT,
                env={**os.environ, **settings, **environ, "PORT": str(self.port), "LOG_FORMAT": "json"},
                stdout=file,
                stderr=file,
            )
        wait_until(self._alive, f"the web process answers ({log})")

    def _alive(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.base}/healthz", timeout=2).ok
        except requests.RequestException:
            return False

    def post(self, body: bytes | Any, secret: str | None = SECRET, **headers: str) -> requests.Response:
        """POST to the webhook; what is not bytes is sent as JSON. ``_`` in a header's name means ``-``."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if secret is not None:
            named["X-CXone-Webhook-Secret"] = secret
        return requests.post(f"{self.base}{PATH}", data=sent, headers=named, timeout=30)

    def raw(self, request: bytes) -> Answer:
        """Send bytes as they are, and read the answer until the other side closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            return read_answer(connection)

    def metric(self, line: str) -> float:
        """Value of a metric; 0 if it is not there."""
        for found in requests.get(f"{self.base}/metrics", timeout=5).text.splitlines():
            if found.startswith(f"{line} "):
                return float(found.split()[-1])
        return 0.0

    def signal(self, number: int) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def kill(self) -> None:
        """Kill -9 of the master and its workers."""
        if self.process.poll() is None:
            for process in (psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children()):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


def read_answer(connection: socket.socket) -> Answer:
    """One HTTP answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        assert chunk, f"closed before an answer: {data!r}"
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        chunk = connection.recv(65536)
        assert chunk, f"closed in the middle of an answer: {head!r}"
        body += chunk
    return Answer(int(first.split()[1]), headers, body)
