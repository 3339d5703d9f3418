"""An owner that is frozen (SIGSTOP) past its lease and past its transaction's time-out, and wakes up late."""

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
def test_an_owner_frozen_in_its_cycle_wakes_up_after_the_take_over(new_deployment: NewDeployment, step: str) -> None:
    """Frozen with rows in hand, or with rows committed and not marked: what it does afterwards harms nothing."""
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


@pytest.mark.parametrize("edge", list(Direction), ids=["commit-unsent", "commit-unanswered"])
def test_an_owner_frozen_with_an_open_transaction_wakes_up_after_its_time_out(
    new_database: NewDatabase,
    new_proxied_deployment: NewProxiedDeployment,
    proxied_kafka: ProxiedKafka,
    edge: Direction,
) -> None:
    """Its commit is on the way while it sleeps past the transaction's time-out; it arrives when it wakes up."""
    deployment = new_proxied_deployment(new_database(), **SETTINGS)
    held = proxied_kafka.proxy.hold_commit(edge)
    ids = deployment.record(new_rows(300))
    frozen = deployment.relay()
    wait_until(held.reached.is_set, "the commit is at the edge")
    frozen.signal(signal.SIGSTOP)
    other = deployment.relay()
    deployment.wait_drained()
    held.pass_on()
    frozen.signal(signal.SIGCONT)
    ids += deployment.record(new_rows(100))
    deployment.wait_drained()
    assert frozen.running()
    assert other.running()
    deployment.check_exactly_once(ids)
