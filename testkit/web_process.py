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
from testkit.forked_process import ForkedProcess
from testkit.ports import free_port
from testkit.waiting import wait_until

SECRET = "a-secret-of-the-tests"
APPLICATION = "app.factory:create_app_from_environ()"
PATH = "/webhook/cxone-data-action"


class RawResponse(NamedTuple):
    """An HTTP response, read from a socket."""

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
        environ: Settings in addition to those that the tests need.
        log: File for its output.
        application: The WSGI application, as gunicorn takes it.
        forked: Fork it, which is faster than a new interpreter.
    """

    def __init__(
        self, environ: Mapping[str, str], log: Path, application: str = APPLICATION, *, forked: bool = False
    ) -> None:
        self.port, self.log = free_port(), log
        self.base = f"http://127.0.0.1:{self.port}"
        settings = {
            "CXONE_WEBHOOK_SECRETS": f"tests={SECRET}",
            "WEB_CONCURRENCY": "1",
            "WEB_HOST": "127.0.0.1",
        }
        command = ["gunicorn", "-c", "python:app.gunicorn_conf", application]
        variables = {**os.environ, **settings, **environ, "PORT": str(self.port), "LOG_FORMAT": "json"}
        if forked:
            self.process: subprocess.Popen[bytes] | ForkedProcess = ForkedProcess(command, variables, log)
        else:
            program = str(Path(sys.executable).with_name("gunicorn"))
            with log.open("ab") as file:
                self.process = subprocess.Popen(
                    [program, *command[1:]], cwd=ROOT, env=variables, stdout=file, stderr=file
                )
        wait_until(self._is_alive, f"the web process is up ({log})")

    def _is_alive(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.base}/healthz", timeout=2).ok
        except requests.RequestException:
            return False

    def post(self, body: bytes | Any, secret: str | None = SECRET, **headers: str) -> requests.Response:
        """POST to the webhook; a body that is not bytes is sent as JSON. ``_`` in a header's name means ``-``."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if secret is not None:
            names["X-CXone-Webhook-Secret"] = secret
        return requests.post(f"{self.base}{PATH}", data=data, headers=names, timeout=30)

    def raw(self, request: bytes) -> RawResponse:
        """Send bytes on a new connection, and read the response."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            return read_response(connection)

    def metric(self, line: str) -> float:
        """Value of a metric; 0 if it is missing."""
        for found in requests.get(f"{self.base}/metrics", timeout=30).text.splitlines():
            if found.startswith(f"{line} "):
                return float(found.split()[-1])
        return 0.0

    def signal(self, number: int) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def kill(self) -> None:
        """Kill the master and its workers by SIGKILL."""
        if self.process.poll() is None:
            for process in (psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children()):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


def read_response(connection: socket.socket) -> RawResponse:
    """Read one HTTP response with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        assert chunk, f"closed before a response: {data!r}"
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        chunk = connection.recv(65536)
        assert chunk, f"closed in the middle of a response: {head!r}"
        body += chunk
    return RawResponse(int(first.split()[1]), headers, body)
