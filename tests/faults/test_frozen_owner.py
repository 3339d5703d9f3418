"""A shard's owner that is stopped (SIGSTOP) past its lease or its transaction timeout, and then resumes."""

import signal

import pytest
from sqlalchemy.exc import OperationalError

from testkit.command_line import command, expect
from testkit.databases import NewDatabase
from testkit.deployment import Deployment, NewDeployment
from testkit.load import LoadGenerator
from testkit.proxied_services import ProxiedKafka
from testkit.proxy import Direction
from testkit.relay_process import RelayProcess
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
    freeze_outside_a_transaction(deployment, frozen)
    other = deployment.relay()
    deployment.wait_drained()
    commit.forward()
    frozen.signal(signal.SIGCONT)
    ids += deployment.record(new_rows(100))
    deployment.wait_drained()
    assert frozen.running()
    assert other.running()
    deployment.check_exactly_once(ids)


def freeze_outside_a_transaction(deployment: Deployment, relay: RelayProcess) -> None:
    """Stop (SIGSTOP) a relay while it has no write transaction.

    A process that is stopped during a write holds SQLite's only write lock, so no other process could take over
    (see docs/delivery.md).
    """

    def frozen_without_a_lock() -> bool:
        relay.signal(signal.SIGSTOP)
        try:
            deployment.execute("UPDATE outbox_identity SET id = id")
        except OperationalError:
            relay.signal(signal.SIGCONT)
            return False
        return True

    wait_until(frozen_without_a_lock, "the relay is frozen outside a write")


def test_a_frozen_owner_is_fenced_when_it_resumes(new_deployment: NewDeployment) -> None:
    """An owner frozen past its lease resumes after another relay took over; rows are still sent exactly once."""
    deployment = new_deployment(RELAY_LEASE_SECONDS="3", RELAY_BATCH_SIZE="20")
    web = deployment.web()
    load = LoadGenerator(lambda: web)
    first = deployment.relay()
    wait_until(first.committed_transactions, "the first relay commits")
    second = deployment.relay()
    for frozen, other in ((first, second), (second, first)):
        wait_until(frozen.committed_transactions, "the owner commits")
        before = other.committed_transactions()
        freeze_outside_a_transaction(deployment, frozen)
        wait_until(lambda: other.committed_transactions() > before, "the other relay takes over")  # noqa: B023 - called at once
        frozen.signal(signal.SIGCONT)
    accepted = load.stop()
    web.stop()
    deployment.wait_drained(120)
    committed = [row_id for (row_id,) in deployment.query("SELECT id FROM outbox ORDER BY id")]
    assert set(accepted) - set(committed) == set()
    deployment.check_exactly_once(committed)
    expect(command(deployment.environ, "verify", "--until", "now", "--values"), 0, stdout="no fault")
    assert first.running()
    assert second.running()
