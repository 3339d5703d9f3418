"""Kafka Connect with Debezium's PostgreSQL connector: one distributed worker with exactly-once sources."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import requests

from testkit.services import Kafka, ServiceError
from testkit.services.java import CACHE, cached, java, maven
from testkit.services.process import Process, free_port
from testkit.waiting import wait_until

CONNECT_VERSION, DEBEZIUM_VERSION = "4.3.1", "3.7.0.Final"
POM = Path(__file__).parent / "pom.xml"
CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
TIMEOUT_SECONDS = 30


def _install(cache: Path) -> Path:
    """Download Connect and the connector unless they are cached; return the folder, with ``lib`` and ``plugins``."""
    name = f"connect-{CONNECT_VERSION}-debezium-{DEBEZIUM_VERSION}"
    with cached(name, cache) as (folder, building):
        if building:
            maven("dependency:copy-dependencies", building / "lib", pom=POM)
            plugins = building / "plugins"
            artifact = f"io.debezium:debezium-connector-postgres:{DEBEZIUM_VERSION}:tar.gz:plugin"
            maven("dependency:copy", plugins, f"-Dartifact={artifact}", pom=POM)
            (archive,) = plugins.glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(plugins, filter="data")
            archive.unlink()
        return folder


class Connect:
    """A Kafka Connect worker.

    Args:
        directory: folder for its settings and log.
        kafka: the broker that stores its state.
        cache: folder for what is downloaded.
    """

    def __init__(self, directory: Path, kafka: Kafka, cache: Path = CACHE) -> None:
        self._directory, self._cache = directory, cache
        self._base = f"http://127.0.0.1:{free_port()}"
        self._kafka = kafka
        self._process: Process | None = None

    def _settings(self, plugins: Path) -> dict[str, str]:
        topics = {
            f"{kind}.storage.{setting}": value
            for kind in ("config", "offset", "status")
            for setting, value in (("topic", f"connect-{kind}"), ("replication.factor", "1"))
        }
        return {
            "bootstrap.servers": self._kafka.bootstrap_servers,
            "group.id": "connect",
            "exactly.once.source.support": "enabled",
            "connector.client.config.override.policy": "All",
            "key.converter": CONVERTER,
            "value.converter": CONVERTER,
            "listeners": self._base,
            "plugin.path": str(plugins),
            "plugin.discovery": "service_load",
            "task.shutdown.graceful.timeout.ms": "60000",
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
        settings = self._settings(home / "plugins")
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"  # its warnings about rejected records cost time
        command = [
            runtime,
            "-Xms256m",
            "-Xmx1g",
            quiet,
            "-cp",
            f"{home / 'lib'}/*",
            "org.apache.kafka.connect.cli.ConnectDistributed",
            str(properties),
        ]
        self._process = Process(command, self._directory / "connect.log", self._answers)
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
        response = requests.get(f"{self._base}/connectors/{name}/status", timeout=TIMEOUT_SECONDS)
        if not response.ok:
            return []
        status: dict[str, Any] = response.json()
        failed = [part["trace"] for part in (status["connector"], *status["tasks"]) if part["state"] == "FAILED"]
        assert not failed, failed[0]
        return [part["state"] for part in (status["connector"], *status["tasks"])]

    def stop(self) -> None:
        """Stop the worker."""
        if self._process is not None:
            self._process.kill()
