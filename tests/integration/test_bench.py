"""The benchmarks run without errors; times are not checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import debezium
from bench.environment import Environment
from testkit import ROOT
from testkit.services import ExternalService, Kafka, Postgres, Registry


def test_the_smoke_benchmarks_report_figures() -> None:
    """Each benchmark of ``--smoke`` reports figures for both databases."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    for kind in ("sqlite", "postgresql"):
        assert figures[f"drain {kind}"]["rows/s"]["median"] > 0
        assert figures[f"verify {kind}"]["values"]["records/s"]["median"] > 0
        assert figures[f"ingest {kind}"]["webhook"]["requests/s"]["median"] > 0
        growth = figures[f"growth {kind}"]["1,000 rows of history"]
        assert growth["p50 ms at 100/s"]["median"] > 0
        assert growth["rows/s"]["median"] > 0


def test_the_consoles_pages_are_timed() -> None:
    """Each page of a small outbox, on both databases, and the memory of the process."""
    command = [sys.executable, "-m", "bench.console", "--rows", "2000", "--times", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    for kind in ("sqlite", "postgresql"):
        assert figures[kind]["ms"]["/rows/ID, parked"]["median"] > 0
        assert figures[kind]["memory of the console in MB"]["highest"] > 0


@pytest.mark.parametrize(
    ("database", "kafka", "reason"),
    [
        ("postgresql", None, "Maven is missing"),
        ("sqlite", None, "PostgreSQL only"),
        ("postgresql", ExternalService("", "127.0.0.1:9092"), "needs its own broker"),
    ],
)
def test_the_debezium_benchmark_reports_why_it_was_not_run(
    database: str, kafka: ExternalService | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports that it lacks Maven, PostgreSQL, or its own services."""
    monkeypatch.setenv("PATH", "")
    environment = Environment(kafka or Kafka(tmp_path), Registry(tmp_path), Postgres(tmp_path), tmp_path)
    result = debezium.measure(environment, database, 1, 1, 1, [1], 1, cache=tmp_path / "cache")
    assert reason in result["not run"]
