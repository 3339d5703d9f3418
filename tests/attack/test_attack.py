"""The short form of ``make attack``: every kind, with many more connections than threads, honest clients beside."""

from pathlib import Path

import pytest

from testkit.databases import NewDatabase
from testkit.waiting import wait_until
from testkit.web_process import WebProcess
from tests.attack.__main__ import lost
from tests.attack.honest import Honest, post_interaction
from tests.attack.hostile import KINDS
from tests.attack.measure import attack

CONNECTIONS = 300
SECONDS = 4.0


@pytest.mark.parametrize("kind", KINDS)
def test_honest_senders_are_served_beside(kind: str, new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """Without the secret nobody stops the intake or its probes, or makes it grow; afterwards all is as before."""
    _check(kind, new_sqlite(), tmp_path)


@pytest.mark.parametrize("kind", ["silent", "slow-head", "never-reading"])
def test_also_on_postgresql(kind: str, new_postgresql: NewDatabase, tmp_path: Path) -> None:
    """The same with two processes."""
    _check(kind, new_postgresql(), tmp_path)


def _check(kind: str, url: str, folder: Path) -> None:
    processes = "1" if url.startswith("sqlite") else "2"
    web = WebProcess({"DATABASE_URL": url, "WEB_CONCURRENCY": processes, "LOG_LEVEL": "ERROR"}, folder / "web.log")
    try:
        with Honest(web.port, post_interaction, per_second=10) as quiet:
            wait_until(lambda: len(quiet.seconds) >= 10, "it is quick while nobody attacks")
        seen = attack(kind, web.port, web.process.pid, post_interaction, CONNECTIONS, SECONDS, per_second=10)
    finally:
        web.kill()
    usual_ms = 1000 * quiet.percentile(0.5)  # of a machine that may be busy with other tests
    assert (seen.failed, seen.refused, lost(url, seen)) == ([], 0, 0)
    assert seen.asked > SECONDS
    assert seen.p50_ms < 500 + 5 * usual_ms, usual_ms
    assert seen.health_p99_ms < 3_000 + 20 * usual_ms, usual_ms
    assert seen.memory_mb < 400
    assert seen.recovered_seconds < 10
