"""Processes killed (-9) at random moments under load: every accepted row is in the topic exactly once."""

import random
import signal
from time import sleep

import pytest
from sqlalchemy.exc import OperationalError

from testkit.command_line import command, expect
from testkit.deployment import Deployment, NewDeployment
from testkit.load import LoadGenerator
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until


def assert_sent_exactly_once(deployment: Deployment, accepted: list[int]) -> None:
    """Assert that every committed row, answered or not, is in the topic exactly once, and that relay verify agrees."""
    deployment.wait_drained(120)
    committed = [row_id for (row_id,) in deployment.query("SELECT id FROM outbox ORDER BY id")]
    assert set(accepted) - set(committed) == set()
    deployment.check_exactly_once(committed)
    expect(command(deployment.environ, "verify", "--until", "now", "--values"), 0, stdout="no fault")


def test_the_web_process_is_killed_under_load(new_deployment: NewDeployment) -> None:
    """Killing master and workers three times under load loses and duplicates no accepted row."""
    deployment = new_deployment()
    deployment.relay()
    deployment.web()
    load = LoadGenerator(lambda: deployment.webs[-1])
    for _ in range(3):
        load.wait_for_accepted(100)
        deployment.webs[-1].kill()
        deployment.web()
    load.wait_for_accepted(100)
    accepted = load.stop()
    deployment.webs[-1].stop()
    assert_sent_exactly_once(deployment, accepted)


@pytest.mark.parametrize("seed", [1])
def test_relays_are_killed_at_random_under_load(new_deployment: NewDeployment, seed: int) -> None:
    """Ten relays with two shards die (-9) one after another, each at a random moment."""
    deployment = new_deployment(shards=2, RELAY_BATCH_SIZE="20")
    web = deployment.web()
    load = LoadGenerator(lambda: web)
    rng = random.Random(seed)
    for _ in range(10):
        relay = deployment.relay()
        wait_until(relay.committed_transactions, "the relay commits")
        sleep(rng.uniform(0, 0.5))
        relay.kill()
    accepted = load.stop()
    web.stop()
    deployment.relay()
    assert_sent_exactly_once(deployment, accepted)


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
    assert_sent_exactly_once(deployment, accepted)
    assert first.running()
    assert second.running()
