"""Kafka Connect with Debezium's PostgreSQL connector: one worker in distributed mode, exactly once for sources."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import requests

from testkit.services import Kafka, ServiceError
from testkit.services.java import cached, java, maven
from testkit.services.process import Process, free_port
from testkit.waiting import wait_until

CONNECT, DEBEZIUM = "4.3.1", "3.7.0.Final"
POM = Path(__file__).parent / "pom.xml"
CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
ANSWER_SECONDS = 30


def _home() -> Path:
    """Folder of Connect's jars (``lib``) and of the connector (``plugins``)."""
    with cached(f"connect-{CONNECT}-debezium-{DEBEZIUM}") as (folder, building):
        if building:
            maven("dependency:copy-dependencies", building / "lib", pom=POM)
            plugins = building / "plugins"
            artifact = f"io.debezium:debezium-connector-postgres:{DEBEZIUM}:tar.gz:plugin"
            maven("dependency:copy", plugins, f"-Dartifact={artifact}", pom=POM)
            (archive,) = plugins.glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(plugins, filter="data")
            archive.unlink()
        return folder


class Connect:
    """A worker of its own, warm or cold as its connectors left it.

    Args:
        directory: for its settings and log.
        kafka: the broker that it keeps its state in.
    """

    def __init__(self, directory: Path, kafka: Kafka) -> None:
        self._directory = directory
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
        """Start and wait until it answers.

        Raises:
            ServiceError: Maven, Java or what they fetch is missing.
        """
        home, runtime = _home(), java(17)
        self._directory.mkdir(parents=True, exist_ok=True)
        properties = self._directory / "worker.properties"
        settings = self._settings(home / "plugins")
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"  # its warnings of refused records cost time
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
        """Make a connector, and wait until its task runs."""
        answer = requests.put(f"{self._base}/connectors/{name}/config", json=config, timeout=ANSWER_SECONDS)
        assert answer.ok, answer.text
        self._wait(name, ["RUNNING", "RUNNING"])

    def stop_connector(self, name: str) -> None:
        """End a connector's task: its offsets are kept, and what is committed meanwhile waits."""
        requests.put(f"{self._base}/connectors/{name}/stop", timeout=ANSWER_SECONDS).raise_for_status()
        self._wait(name, ["STOPPED"])

    def resume_connector(self, name: str) -> None:
        """Start its task again; returns before it runs."""
        requests.put(f"{self._base}/connectors/{name}/resume", timeout=ANSWER_SECONDS).raise_for_status()

    def _wait(self, name: str, states: list[str]) -> None:
        wait_until(lambda: self._states(name) == states, f"connector and tasks are {states}: {self._directory}")

    def _states(self, name: str) -> list[str]:
        answer = requests.get(f"{self._base}/connectors/{name}/status", timeout=ANSWER_SECONDS)
        if not answer.ok:
            return []
        status: dict[str, Any] = answer.json()
        failed = [part["trace"] for part in (status["connector"], *status["tasks"]) if part["state"] == "FAILED"]
        assert not failed, failed[0]
        return [part["state"] for part in (status["connector"], *status["tasks"])]

    def stop(self) -> None:
        """Stop it for good."""
        if self._process is not None:
            self._process.kill()
