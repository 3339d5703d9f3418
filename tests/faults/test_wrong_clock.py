"""A host whose clock is wrong: the broker refuses its records, no row is charged, and the clock is named."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import ROOT
from testkit.deployment import Deployment, settings_for
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Registry, ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.waiting import wait_until

TWO_HOURS = 7_200
"""Brokers refuse records that are more than an hour ahead of their clock."""


@pytest.fixture(scope="session")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes the clock wrong."""
    library = tmp_path_factory.mktemp("wrong-clock") / "wrong_clock.so"
    compiler = shutil.which("cc")
    if compiler is None:
        skip_or_fail(ServiceError("a C compiler (cc): apt-get install gcc"))
    if sys.platform != "linux":
        skip_or_fail(ServiceError("Linux, whose loader takes LD_PRELOAD"))
    source = ROOT / "tests" / "faults" / "wrong_clock.c"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], check=True)
    return library


def test_records_from_the_future_charge_no_row(
    wrong_clock: Path,
    new_postgresql: Callable[[], str],
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    tmp_path: Path,
    deployments: list[Deployment],
) -> None:
    """With the host's clock ahead the shard waits and names it, also in check; with the clock right all is sent."""
    url, clock = new_postgresql(), tmp_path / "clock"
    clock.write_text(str(TWO_HOURS))
    skewed = {"LD_PRELOAD": str(wrong_clock), "WRONG_CLOCK_FILE": str(clock)}
    config = {"bootstrap.servers": kafka.bootstrap_servers}
    deployment = Deployment(url, {**settings_for(kafka, registry, url), **skewed}, config, tmp_path)
    deployments.append(deployment)
    ids = deployment.record(new_rows(200))
    relay = deployment.relay()
    relay.wait_degraded("shard 0", "the clocks of this host and of the broker differ")
    checked = subprocess.run(
        [sys.executable, "-m", "relay", "check"],
        cwd=ROOT, env={**os.environ, **deployment.environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 4, checked.stdout
    assert "NTP" in checked.stdout.split("broker clock:")[1].splitlines()[1]
    assert deployment.query("SELECT count(*) FROM outbox WHERE state = 'parked'") == [(0,)]
    clock.write_text("0")
    deployment.wait_drained()
    wait_until(lambda: not relay.degraded(), "nothing is degraded any more")
    deployment.check_exactly_once(ids)
