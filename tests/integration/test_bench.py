"""The bench runs: small, for crashes, not for times."""

import json
import subprocess
import sys

from tests.conftest import ROOT


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
