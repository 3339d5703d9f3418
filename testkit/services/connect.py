"""Kafka Connect with Debezium's PostgreSQL connector: one distributed worker with exactly-once sources."""

import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import requests

from testkit.ports import free_port
from testkit.services.java import CACHE, cached, java, maven
from testkit.services.kafka import jars
from testkit.services.process import Process, ServiceError
from testkit.waiting import wait_until

CONNECT_VERSION, DEBEZIUM_VERSION = "4.3.1", "3.7.0.Final"
"""Connect comes with the broker's jars."""
CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
TIMEOUT_SECONDS = 30


def _install(cache: Path) -> Path:
    """Download the connector and a logger unless they are cached; return their folder."""
    with cached(f"debezium-{DEBEZIUM_VERSION}", cache) as (folder, building):
        if building:
            downloads = building / "downloads"
            for artifact in (
                f"io.debezium:debezium-connector-postgres:{DEBEZIUM_VERSION}:tar.gz:plugin",
                "org.slf4j:slf4j-simple:1.7.36",
            ):
                maven("dependency:copy", downloads, f"-Dartifact={artifact}")
            (archive,) = downloads.glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(building / "plugins", filter="data")
            archive.unlink()
        return folder


class Connect:
    """A Kafka Connect worker.

    Args:
        directory: folder for its settings and log.
        bootstrap_servers: of the broker that stores its state.
        settings: worker settings that override those of this class.
        environ: environment variables, which its settings and connectors may refer to.
        cache: folder for what is downloaded.
    """

    def __init__(
        self,
        directory: Path,
        bootstrap_servers: str,
        settings: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        cache: Path = CACHE,
    ) -> None:
        self._directory, self._cache, self._environ = directory, cache, environ
        self._base = f"http://127.0.0.1:{free_port()}"
        self._settings = {**self._defaults(bootstrap_servers), **(settings or {})}
        self._process: Process | None = None

    def _defaults(self, bootstrap_servers: str) -> dict[str, str]:
        group = f"connect-{uuid.uuid4().hex[:8]}"
        topics = {
            f"{kind}.storage.{setting}": value
            for kind in ("config", "offset", "status")
            for setting, value in (("topic", f"{group}-{kind}"), ("replication.factor", "1"))
        }
        return {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "exactly.once.source.support": "enabled",
            "key.converter": CONVERTER,
            "value.converter": CONVERTER,
            "listeners": self._base,
            "plugin.discovery": "service_load",
            "offset.storage.partitions": "1",
            "status.storage.partitions": "1",
            **topics,
        }

    def start(self) -> Self:
        """Start the worker and wait until it answers.

        Raises:
            ServiceError: Maven or Java is missing, or a download failed.
        """
        home, runtime = _install(self._cache), java(17)
        self._directory.mkdir(parents=True, exist_ok=True)
        properties = self._directory / "worker.properties"
        settings = {**self._settings, "plugin.path": str(home / "plugins")}
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        libraries = [*(home / "downloads").iterdir(), *jars().iterdir()]
        logged = [str(each) for each in libraries if not each.name.startswith("slf4j-nop")]  # it discards the log
        command = [
            runtime,
            "-Xms256m",
            "-Xmx1g",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",  # warnings about rejected records cost time
            "-cp",
            ":".join(logged),
            "org.apache.kafka.connect.cli.ConnectDistributed",
            str(properties),
        ]
        self._process = Process(command, self._directory / "connect.log", self._answers, self._environ)
        self._process.start()
        return self

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self._base}/connectors", timeout=2).ok
        except requests.RequestException:
            return False

    @property
    def process(self) -> Process:
        """The worker's process."""
        if self._process is None:
            raise ServiceError("Kafka Connect is not started")
        return self._process

    def create(self, name: str, config: Mapping[str, str]) -> None:
        """Create a connector, and wait until its task runs."""
        response = requests.put(f"{self._base}/connectors/{name}/config", json=config, timeout=TIMEOUT_SECONDS)
        assert response.ok, response.text
        self.wait_running(name)

    def wait_running(self, name: str) -> None:
        """Wait until a connector and its task run."""
        self._wait(name, ["RUNNING", "RUNNING"])

    def stop_connector(self, name: str) -> None:
        """Stop a connector's task; its offsets are kept, so it catches up when it resumes."""
        requests.put(f"{self._base}/connectors/{name}/stop", timeout=TIMEOUT_SECONDS).raise_for_status()
        self._wait(name, ["STOPPED"])

    def resume_connector(self, name: str) -> None:
        """Resume a connector's task; return before it runs."""
        requests.put(f"{self._base}/connectors/{name}/resume", timeout=TIMEOUT_SECONDS).raise_for_status()

    def _wait(self, name: str, states: list[str]) -> None:
        wait_until(lambda: self._states(name) == states, f"connector and tasks are {states} (log in {self._directory})")

    def _states(self, name: str) -> list[str]:
        assert not (failure := self.failure(name)), failure
        return [part["state"] for part in self._status(name)]

    def failure(self, name: str) -> str:
        """The error that stopped a connector or its task; empty: there is none."""
        return next((part["trace"] for part in self._status(name) if part["state"] == "FAILED"), "")

    def _status(self, name: str) -> list[dict[str, Any]]:
        """The status of a connector and its tasks; empty: the worker does not know it yet."""
        response = requests.get(f"{self._base}/connectors/{name}/status", timeout=TIMEOUT_SECONDS)
        if not response.ok:
            return []
        status = response.json()
        return [status["connector"], *status["tasks"]]

    def stop(self) -> None:
        """Kill the worker."""
        if self._process is not None:
            self._process.kill()
