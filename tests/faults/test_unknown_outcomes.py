"""Commits whose outcome the relay cannot know, because the proxy holds or drops their request or response."""

import signal
import uuid
from collections.abc import Iterator

import pytest

from testkit.databases import NewDatabase
from testkit.deployment import Deployment
from testkit.proxied_services import ProxiedKafka
from testkit.proxy import BOTH_DIRECTIONS, Direction, HeldCommit
from testkit.rows import new_rows
from testkit.waiting import wait_until
from tests.faults.conftest import NewProxiedDeployment

both_directions = pytest.mark.parametrize("direction", list(Direction), ids=["request-held", "response-held"])


@pytest.fixture
def commit(proxied_kafka: ProxiedKafka, direction: Direction) -> Iterator[HeldCommit]:
    """The next commit, held by the proxy; dropped when the test ends, if not before."""
    held = proxied_kafka.proxy.hold_commit(direction)
    yield held
    held.drop()


@both_directions
def test_a_relay_dies_during_its_commit(
    new_database: NewDatabase, new_proxied_deployment: NewProxiedDeployment, direction: Direction, commit: HeldCommit
) -> None:
    """Whether or not the broker received the commit, the next relay sends every row exactly once."""
    deployment = new_proxied_deployment(new_database(), RELAY_BATCH_SIZE="50")
    ids = deployment.record(new_rows(120))
    relay = deployment.relay()
    wait_until(commit.reached.is_set, "the proxy holds the commit")
    relay.kill()
    commit.drop()
    if direction is Direction.FROM_SERVICE:
        wait_until(lambda: len(deployment.seen()) == 50, "the broker has committed")
        assert deployment.pending() == len(ids), "no row is marked yet"
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


@both_directions
def test_a_relay_recovers_from_a_commit_that_is_not_answered_in_time(
    new_sqlite: NewDatabase, new_proxied_deployment: NewProxiedDeployment, commit: HeldCommit
) -> None:
    """The relay times out, takes the shard again and reads back the outcome; the late commit then changes nothing."""
    deployment = new_proxied_deployment(new_sqlite(), RELAY_BATCH_SIZE="50")
    ids = deployment.record(new_rows(120))
    relay = deployment.relay()
    wait_until(commit.reached.is_set, "the proxy holds the commit")
    relay.wait_degraded("shard 0", "did not answer")
    deployment.wait_drained()
    commit.forward()
    ids += deployment.record(new_rows(30))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


@both_directions
def test_the_link_is_down_from_the_commit_until_the_transaction_timeout(
    new_sqlite: NewDatabase,
    new_proxied_deployment: NewProxiedDeployment,
    proxied_kafka: ProxiedKafka,
    commit: HeldCommit,
) -> None:
    """The broker itself ends a transaction that is still open; the relay recovers without a restart."""
    timeout = '{"transaction.timeout.ms": 1500, "message.timeout.ms": 1500}'
    deployment = new_proxied_deployment(new_sqlite(), RELAY_BATCH_SIZE="50", KAFKA_CONFIG=timeout)
    ids = deployment.record(new_rows(120))
    relay = deployment.relay()
    wait_until(commit.reached.is_set, "the proxy holds the commit")
    with proxied_kafka.proxy.down():
        commit.drop()
        wait_until(
            lambda: b"Complete" in transaction_of(deployment, proxied_kafka), "the broker has ended the transaction"
        )
    deployment.wait_drained()
    assert relay.running()
    deployment.check_exactly_once(ids)


def test_half_open_connections_time_out(
    new_sqlite: NewDatabase, new_proxied_deployment: NewProxiedDeployment, proxied_kafka: ProxiedKafka
) -> None:
    """Once the link works again, the relay sends within seconds, on new connections."""
    deployment = new_proxied_deployment(new_sqlite())
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    deployment.wait_drained()
    with proxied_kafka.proxy.half_open(BOTH_DIRECTIONS):
        ids += deployment.record(new_rows(50))
        relay.wait_degraded("shard 0", "did not answer")
    deployment.wait_drained(45)  # less than a minute: the half-open connections must not be used again
    deployment.check_exactly_once(ids)


def test_the_transactional_id_of_a_paused_owner_expires(
    new_database: NewDatabase, new_proxied_deployment: NewProxiedDeployment, proxied_kafka: ProxiedKafka
) -> None:
    """After ``transactional.id.expiration.ms`` without activity, an owner still sends each row exactly once."""
    prefix = f"idle-{uuid.uuid4().hex[:8]}-"
    deployment = new_proxied_deployment(new_database(), KAFKA_TRANSACTIONAL_ID_PREFIX=prefix)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.signal(signal.SIGSTOP)
    wait_until(lambda: prefix.encode() not in proxied_kafka.transactions(), "the transactional id has expired")
    relay.signal(signal.SIGCONT)
    ids += deployment.record(new_rows(50))
    deployment.wait_drained()
    assert relay.running()
    deployment.check_exactly_once(ids)


def transaction_of(deployment: Deployment, kafka: ProxiedKafka) -> bytes:
    """Return the coordinator's entry for the deployment's one transactional id, or nothing if it has none."""
    transactions = kafka.transactions()
    start = transactions.find(deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"].encode())
    return transactions[start : start + 60] if start >= 0 else b""
