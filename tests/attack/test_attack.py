"""A short form of ``make attack``: every kind, with many more connections than threads."""

from pathlib import Path

import pytest

from testkit.databases import NewDatabase
from testkit.waiting import wait_until
from testkit.web_process import WebProcess
from tests.attack.__main__ import count_lost
from tests.attack.honest import HonestClients, post_interaction
from tests.attack.hostile import KINDS
from tests.attack.measure import attack

CONNECTIONS = 300
SECONDS = 4.0


@pytest.mark.parametrize("kind", KINDS)
def test_honest_clients_are_served_during_an_attack(kind: str, new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """Requests and health checks succeed, memory is limited, and the server recovers after the attack."""
    _check(kind, new_sqlite(), tmp_path)


@pytest.mark.parametrize("kind", ["silent", "slow-head", "never-reading"])
def test_honest_clients_are_served_on_postgresql(kind: str, new_postgresql: NewDatabase, tmp_path: Path) -> None:
    """As above, with two web processes."""
    _check(kind, new_postgresql(), tmp_path)


def _check(kind: str, url: str, folder: Path) -> None:
    processes = "1" if url.startswith("sqlite") else "2"
    web = WebProcess({"DATABASE_URL": url, "WEB_CONCURRENCY": processes, "LOG_LEVEL": "ERROR"}, folder / "web.log")
    try:
        with HonestClients(web.port, post_interaction, per_second=10) as baseline:
            wait_until(lambda: len(baseline.seconds) >= 10, "ten requests are answered without an attack")
        result = attack(kind, web.port, web.process.pid, post_interaction, CONNECTIONS, SECONDS, per_second=10)
    finally:
        web.kill()
    baseline_ms = 1000 * baseline.percentile(0.5)  # the machine may be busy with other tests
    assert result.failed == []
    assert result.refused == 0
    assert count_lost(url, result) == 0
    assert result.requests > SECONDS
    assert result.p50_ms < 500 + 5 * baseline_ms, baseline_ms
    assert result.health_p99_ms < 3_000 + 20 * baseline_ms, baseline_ms
    assert result.memory_mb < 400
    assert result.recovered_seconds < 10
