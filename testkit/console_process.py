"""The console as it runs in production: gunicorn on a real socket."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
import requests

from testkit.console import KEY, write_users
from testkit.ports import free_port
from testkit.services.process import Process

APPLICATION = "console.factory:create_app_from_environ()"
WITHOUT_KAFKA = dict.fromkeys(
    ("KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL", "SCHEMA_REGISTRY_USERNAME", "SCHEMA_REGISTRY_PASSWORD"), ""
)


class ConsoleProcess:
    """gunicorn with the console, and a file of users with one of each role, named as the role.

    Args:
        url: of the database.
        folder: for the file of users and the log.
        environ: further settings. Without any, it looks for no record in Kafka.
    """

    def __init__(self, url: str, folder: Path, **environ: str) -> None:
        port = environ.get("CONSOLE_PORT") or free_port()
        self.url, self.origin = url, f"http://127.0.0.1:{port}"
        self.users, self.log = write_users(folder), folder / "console.log"
        settings = {
            **WITHOUT_KAFKA,
            "DATABASE_URL": url,
            "ALLOW_PLAINTEXT_CREDENTIALS": "true",
            "CONSOLE_AUTH": "file",
            "CONSOLE_USERS_FILE": str(self.users),
            "CONSOLE_SECRET_KEY": KEY,
            "CONSOLE_PORT": str(port),
            "LOG_FORMAT": "json",
        }
        command = [sys.executable, "-m", "gunicorn", "-c", "python:console.gunicorn_conf", APPLICATION]
        self._process = Process(command, self.log, self._is_alive, {**settings, **environ})

    def start(self) -> Self:
        """Start it, on the same port each time, and wait until it answers.

        Raises:
            ServiceError: it does not start.
        """
        self._process.start()
        return self

    def stop(self) -> None:
        """End it as a platform does."""
        self._process.stop(signal.SIGTERM)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it and its worker as a machine does that stands still: connections are accepted, and not answered."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    @property
    def worker(self) -> psutil.Process:
        """The process that answers requests."""
        (worker,) = psutil.Process(self._process.pid).children()
        return worker

    def _processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._process.pid), self.worker]

    def _is_alive(self) -> bool:
        try:
            return requests.get(f"{self.origin}/healthz", timeout=2).ok
        except requests.RequestException:
            return False
