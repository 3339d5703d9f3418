"""A Prometheus server that scrapes processes of this machine, and evaluates alerts."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import requests
import yaml

from testkit.ports import free_port
from testkit.services.process import Process, ServiceError


class QueryResult(NamedTuple):
    """One series of a query's result: its labels, and its values with their times in seconds since the epoch."""

    labels: dict[str, str]
    values: list[tuple[float, float]]


class Prometheus:
    """A Prometheus server.

    Args:
        directory: folder for its data, settings and log.
        rules: the text of its file of rules.
        interval_seconds: between two scrapes, and two evaluations of the rules.
    """

    def __init__(self, directory: Path, rules: str, interval_seconds: float = 1.0) -> None:
        self._directory, self._rules = directory, rules
        self._interval = f"{interval_seconds * 1000:.0f}ms"
        self._targets = directory / "targets.json"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process: Process | None = None

    def start(self) -> Self:
        """Start it and wait until it is ready.

        Raises:
            ServiceError: it is not installed or does not start.
        """
        found = shutil.which("prometheus")
        if found is None:
            raise ServiceError("prometheus is missing: apt-get install prometheus, or brew install prometheus")
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "rules.yaml").write_text(self._rules)
        every = {"scrape_interval": self._interval, "scrape_timeout": self._interval}
        discovery = {"files": [self._targets.name], "refresh_interval": "1s"}
        settings = {
            "global": {**every, "evaluation_interval": self._interval},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "all", "file_sd_configs": [discovery]}],
        }
        (self._directory / "prometheus.yml").write_text(yaml.safe_dump(settings))
        self.scrape({})
        command = [
            found,
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        self._process = Process(command, self._directory / "prometheus.log", self._is_ready)
        self._process.start()
        return self

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.stop()

    def scrape(self, jobs: Mapping[str, Sequence[str]]) -> None:
        """Scrape these addresses from now on, by the name of their job."""
        groups = [{"targets": list(targets), "labels": {"job": job}} for job, targets in jobs.items()]
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.replace(self._targets)  # it reads the file when that changes, and must never read half of it

    def query(self, expression: str) -> list[QueryResult]:
        """Evaluate an expression now."""
        found = self._get("query", query=expression)["result"]
        return [QueryResult(each["metric"], [_sample(each["value"])]) for each in found]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[QueryResult]:
        """Evaluate an expression at each step between two times."""
        found = self._get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [QueryResult(each["metric"], list(map(_sample, each["values"]))) for each in found]

    def firing(self) -> dict[str, str]:
        """Return the name of each alert that fires, with its summary."""
        alerts = self._get("alerts")["alerts"]
        return {
            each["labels"]["alertname"]: each["annotations"]["summary"] for each in alerts if each["state"] == "firing"
        }

    def _get(self, resource: str, **parameters: Any) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{resource}", params=parameters, timeout=30)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=2).ok
        except requests.RequestException:
            return False


def _sample(given: Sequence[Any]) -> tuple[float, float]:
    return float(given[0]), float(given[1])
