"""A host whose clock is wrong: it is measured; if the broker rejects its records, no row is parked."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from testkit import ROOT
from testkit.deployment import Deploy
from testkit.preload import FAULTS, Clock, build_preload_library
from testkit.relay_process import RelayProcess
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka
from testkit.topic import create_topics
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

TWO_HOURS = 7_200
"""In seconds. Brokers reject records that are more than an hour ahead of their own clock, and, if the topic says so,
those that are behind it."""
TEN_MINUTES = 600
"""In seconds. Harmless to the broker."""
OFFSET = "outbox_clock_offset_seconds"


@pytest.fixture(scope="session")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library that shifts the clock."""
    return build_preload_library(FAULTS / "wrong_clock.c", tmp_path_factory.mktemp("wrong-clock"))


@pytest.mark.parametrize("seconds", [TWO_HOURS, -TWO_HOURS], ids=["ahead", "behind"])
def test_a_wrong_clock_parks_no_row(
    seconds: int,
    wrong_clock: Path,
    new_postgresql: Callable[[], str],
    kafka: Kafka | ExternalService,
    deploy: Deploy,
    tmp_path: Path,
) -> None:
    """While the host's clock is wrong, the shard and ``check`` name the clock; once it is corrected, all is sent. The
    relay does not look for a row that is at fault.
    """
    clock = Clock(tmp_path / "clock")
    clock.set_ahead(seconds)
    deployment = deploy(new_postgresql(), kafka, LD_PRELOAD=str(wrong_clock), **clock.environ)
    limit = {"message.timestamp.before.max.ms": "3600000"}
    for topic in (deployment.topic, deployment.environ["KAFKA_PROGRESS_TOPIC"]):
        create_topics(deployment.client_config, NewTopic(topic, 1, 1, config=limit))
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
    assert not [line for line in relay.lines() if line.get("action") == "batch_refused"]
    wait_until(lambda: not relay.degraded(), "nothing is degraded")
    deployment.check_exactly_once(ids)


def test_a_wrong_clock_is_measured(
    wrong_clock: Path,
    new_postgresql: Callable[[], str],
    kafka: Kafka | ExternalService,
    deploy: Deploy,
    tmp_path: Path,
) -> None:
    """Web and relay export how far their clocks are ahead of the database's; rows are delivered all the same."""
    clock = Clock(tmp_path / "clock")
    clock.set_ahead(TEN_MINUTES)
    shift = {"LD_PRELOAD": str(wrong_clock), **clock.environ}
    deployment = deploy(new_postgresql(), kafka, **shift)
    ids = deployment.record(new_rows(20))
    web, relay = deployment.web(**shift), deployment.relay()
    wait_ahead(web, relay, TEN_MINUTES)
    clock.set_ahead(0)
    wait_ahead(web, relay, 0)
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def wait_ahead(web: WebProcess, relay: RelayProcess, seconds: float) -> None:
    """Wait until both export a clock that is about this far ahead."""
    wait_until(lambda: web.metric(OFFSET) == pytest.approx(seconds, abs=2), f"web is {seconds} s ahead")
    wait_until(lambda: relay.metric(OFFSET) == pytest.approx(seconds, abs=2), f"the relay is {seconds} s ahead")
