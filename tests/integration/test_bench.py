"""The bench runs: small, for crashes, not for times."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import connect, debezium
from bench.environment import Environment
from testkit import ROOT
from testkit.services import ExternalService, Kafka, Postgres, Registry
from testkit.services.java import cached


def test_the_bench_runs_to_its_end() -> None:
    """Every part gives figures for both databases."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    for kind in ("sqlite", "postgresql"):
        assert figures[f"drain {kind}"]["rows/s"]["median"] > 0
        assert figures[f"ingest {kind}"]["webhook"]["requests/s"]["median"] > 0
        grown = figures[f"growth {kind}"]["1,000 rows of history"]
        assert grown["p50 ms at 100/s"]["median"] > 0
        assert grown["rows/s"]["median"] > 0


def test_the_bench_says_why_there_is_nothing_beside_the_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Debezium cannot be fetched, on SQLite, and on services of others, the comparison says so."""
    monkeypatch.setattr(connect, "cached", lambda name: cached(name, tmp_path / "services"))
    monkeypatch.setenv("PATH", "")
    own = Environment(Kafka(tmp_path), Registry(tmp_path), Postgres(tmp_path), tmp_path)
    given = replace(own, kafka=ExternalService("", "127.0.0.1:9092"))
    reasons = {
        "Maven is missing": (own, "postgresql"),
        "PostgreSQL only": (own, "sqlite"),
        "its own": (given, "postgresql"),
    }
    for reason, (place, kind) in reasons.items():
        assert reason in debezium.measure(place, kind, 1, 1, 1, [1], 1)["not run"]
