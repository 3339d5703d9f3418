"""A Schema Registry with basic authentication: Apicurio, through its Confluent-compatible interface."""

import tarfile
from pathlib import Path
from typing import Self

import requests

from testkit.ports import free_port
from testkit.services.java import cached, java, maven
from testkit.services.process import Process, ServiceError

VERSION = "3.3.3"


def _home() -> Path:
    with cached(f"apicurio-{VERSION}") as (folder, building):
        if building:
            artifact = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
            maven("dependency:copy", building, f"-Dartifact={artifact}", "-Dmdep.stripVersion")
            (archive,) = building.glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(building, filter="data")
            archive.unlink()
    (runner,) = folder.rglob("quarkus-run.jar")
    return runner


def libraries(*prefixes: str) -> list[Path]:
    """Return the jar of the registry whose name begins with each prefix."""
    folder = _home().parent / "lib" / "main"
    return [next(folder.glob(f"{prefix}[0-9]*.jar")) for prefix in prefixes]


class Registry:
    """A registry, empty at the start, with compatibility BACKWARD.

    Args:
        directory: for its log.
    """

    username, password = "relay", "registry-secret"
    compatibility: str | None = "BACKWARD"
    """Set at the start; None: the default."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port, self._management = free_port(), free_port()
        self.base = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base}/apis/ccompat/v7"
        self._process: Process | None = None

    def start(self) -> Self:
        """Start, and wait until the registry answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        options = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": self._port,
            "quarkus.management.host": "127.0.0.1",
            "quarkus.management.port": self._management,
            **self._login_options(),
        }
        flags = [f"-D{name}={value}" for name, value in options.items()]
        command = [java(21), "-Xmx300m", "-XX:TieredStopAtLevel=1", *flags, "-jar", str(_home())]
        self._process = Process(command, self._directory / "registry.log", self._answers)
        self._process.start()
        if self.compatibility:
            compatibility = {"compatibility": self.compatibility}
            requests.put(f"{self.url}/config", json=compatibility, auth=self.login, timeout=10).raise_for_status()
        return self

    def _login_options(self) -> dict[str, str]:
        users = "quarkus.security.users.embedded"
        return {
            "quarkus.http.auth.basic": "true",
            f"{users}.enabled": "true",
            f"{users}.plain-text": "true",
            f"{users}.users.{self.username}": self.password,
            f"{users}.roles.{self.username}": "sr-admin",
            "quarkus.http.auth.permission.ccompat.paths": "/apis/*",
            "quarkus.http.auth.permission.ccompat.policy": "authenticated",
        }

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password, if it requires a login."""
        return self.username, self.password

    @property
    def process(self) -> Process:
        """Its process, to kill, pause and resume."""
        if self._process is None:
            raise ServiceError("the registry is not started")
        return self._process

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/subjects", auth=self.login, timeout=2).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """Kill the registry. It stores nothing."""
        if self._process is not None:
            self._process.kill()


class StockRegistry(Registry):
    """A registry with its defaults: no login, compatibility NONE."""

    compatibility = None

    @property
    def login(self) -> None:
        """None: it requires no login."""

    def _login_options(self) -> dict[str, str]:
        return {}
