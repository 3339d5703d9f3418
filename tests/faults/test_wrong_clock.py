"""A host whose clock is wrong: the broker rejects its records, no row is parked, and the error names the clock."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import ROOT
from testkit.deployment import Deploy
from testkit.preload import FAULTS, Clock, build_preload_library
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka
from testkit.waiting import wait_until

TWO_HOURS = 7_200
"""In seconds. Brokers reject records that are more than an hour ahead of their own clock."""


@pytest.fixture(scope="session")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library that shifts the clock."""
    return build_preload_library(FAULTS / "wrong_clock.c", tmp_path_factory.mktemp("wrong-clock"))


def test_a_wrong_clock_parks_no_row(
    wrong_clock: Path,
    new_postgresql: Callable[[], str],
    kafka: Kafka | ExternalService,
    deploy: Deploy,
    tmp_path: Path,
) -> None:
    """While the host's clock is ahead, the shard and ``check`` name the clock; once it is corrected, all is sent."""
    clock = Clock(tmp_path / "clock")
    clock.set_ahead(TWO_HOURS)
    deployment = deploy(new_postgresql(), kafka, LD_PRELOAD=str(wrong_clock), **clock.environ)
    ids = deployment.record(new_rows(200))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "the clocks of this host and of the broker differ")
    check = subprocess.run(
        [sys.executable, "-m", "relay", "check"],
        cwd=ROOT, env={**os.environ, **deployment.environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 4, check.stdout
    assert "NTP" in check.stdout.split("broker clock:")[1].splitlines()[1], check.stdout
    assert deployment.query("SELECT count(*) FROM outbox_rows WHERE state = 'parked'") == [(0,)]
    clock.set_ahead(0)
    deployment.wait_drained()
    wait_until(lambda: not relay.degraded(), "nothing is degraded")
    deployment.check_exactly_once(ids)
