"""A shard's owner that is stopped (SIGSTOP) past its lease or its transaction timeout, and then resumes."""

import signal

import pytest

from testkit.databases import NewDatabase
from testkit.deployment import NewDeployment
from testkit.proxied_services import ProxiedKafka
from testkit.proxy import Direction
from testkit.rows import new_rows
from testkit.waiting import wait_until
from tests.faults.conftest import NewProxiedDeployment

TRANSACTION_SECONDS = 2
SETTINGS = {
    "RELAY_BATCH_SIZE": "50",
    "RELAY_LEASE_SECONDS": "3",
    "KAFKA_CONFIG": f'{{"transaction.timeout.ms": {TRANSACTION_SECONDS}000, "message.timeout.ms": 1900}}',
}


@pytest.mark.parametrize("step", ["encoded", "committed"])
def test_an_owner_frozen_in_its_cycle_resumes_after_a_takeover(new_deployment: NewDeployment, step: str) -> None:
    """Frozen before its commit, or between commit and mark, an owner loses and duplicates nothing once it resumes."""
    deployment = new_deployment(**SETTINGS)
    ids = deployment.record(new_rows(300))
    frozen = deployment.relay(freeze_at=step, times=2)
    wait_until(frozen.frozen, "the owner is frozen")
    deployment.relay()
    deployment.wait_drained()
    frozen.signal(signal.SIGCONT)
    ids += deployment.record(new_rows(100))
    deployment.wait_drained()
    assert frozen.running()
    deployment.check_exactly_once(ids)


@pytest.mark.parametrize("direction", list(Direction), ids=["request-held", "response-held"])
def test_an_owner_frozen_during_its_commit_resumes_after_the_transaction_timeout(
    new_database: NewDatabase,
    new_proxied_deployment: NewProxiedDeployment,
    proxied_kafka: ProxiedKafka,
    direction: Direction,
) -> None:
    """A commit in flight that is delivered after the transaction timeout and a takeover changes nothing."""
    deployment = new_proxied_deployment(new_database(), **SETTINGS)
    commit = proxied_kafka.proxy.hold_commit(direction)
    ids = deployment.record(new_rows(300))
    frozen = deployment.relay()
    wait_until(commit.reached.is_set, "the proxy holds the commit")
    frozen.signal(signal.SIGSTOP)
    other = deployment.relay()
    deployment.wait_drained()
    commit.forward()
    frozen.signal(signal.SIGCONT)
    ids += deployment.record(new_rows(100))
    deployment.wait_drained()
    assert frozen.running()
    assert other.running()
    deployment.check_exactly_once(ids)
