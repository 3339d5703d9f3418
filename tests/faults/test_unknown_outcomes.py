"""Commits whose outcome the relay cannot know, made on purpose: the link is cut at the commit's very edge."""

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

EDGES = {
    "before it reaches the broker": Direction.TO_SERVICE,
    "before its answer comes back": Direction.FROM_SERVICE,
}
edges = pytest.mark.parametrize("edge", EDGES.values(), ids=[name.replace(" ", "-") for name in EDGES])


@pytest.fixture
def held(proxied_kafka: ProxiedKafka, edge: Direction) -> Iterator[HeldCommit]:
    """The next commit, kept at this edge; cut at the latest when the test ends."""
    hold = proxied_kafka.proxy.hold_commit(edge)
    yield hold
    hold.cut()


def in_kafka(deployment: Deployment) -> int:
    """Rows that consumers see already."""
    return len(deployment.seen())


@edges
def test_the_relay_dies_while_its_commit_is_under_way(
    new_database: NewDatabase, new_proxied_deployment: NewProxiedDeployment, edge: Direction, held: HeldCommit
) -> None:
    """Killed (-9) with a commit that the broker never got, or has done without being heard: exact in the end."""
    deployment = new_proxied_deployment(new_database(), RELAY_BATCH_SIZE="50")
    ids = deployment.record(new_rows(120))
    relay = deployment.relay()
    wait_until(held.reached.is_set, "the commit is at the edge")
    relay.kill()
    held.cut()
    if edge is Direction.FROM_SERVICE:
        wait_until(lambda: in_kafka(deployment) == 50, "the broker has committed")
        assert deployment.pending() == len(ids), "nobody has told the database"
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


@edges
def test_the_commit_is_not_answered_for_longer_than_patience_lasts(
    new_sqlite: NewDatabase, new_proxied_deployment: NewProxiedDeployment, edge: Direction, held: HeldCommit
) -> None:
    """The relay gives up, takes the shard anew and finds out what happened; the old request arrives later still."""
    deployment = new_proxied_deployment(new_sqlite(), RELAY_BATCH_SIZE="50")
    ids = deployment.record(new_rows(120))
    relay = deployment.relay()
    wait_until(held.reached.is_set, "the commit is at the edge")
    relay.wait_degraded("shard 0", "did not answer")
    deployment.wait_drained()
    held.pass_on()
    ids += deployment.record(new_rows(30))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


@edges
def test_the_link_is_cut_at_the_commit_until_the_transaction_has_timed_out(
    new_sqlite: NewDatabase, new_proxied_deployment: NewProxiedDeployment, proxied_kafka: ProxiedKafka, held: HeldCommit
) -> None:
    """The broker meanwhile ends the transaction itself, if it is still open: exact, and no restart is needed."""
    timeout = '{"transaction.timeout.ms": 1500, "message.timeout.ms": 1500}'
    deployment = new_proxied_deployment(new_sqlite(), RELAY_BATCH_SIZE="50", KAFKA_CONFIG=timeout)
    ids = deployment.record(new_rows(120))
    relay = deployment.relay()
    wait_until(held.reached.is_set, "the commit is at the edge")
    with proxied_kafka.proxy.down():
        held.cut()
        wait_until(lambda: b"Complete" in transactions_of(deployment, proxied_kafka), "the broker ends it")
    deployment.wait_drained()
    assert relay.running()
    deployment.check_exactly_once(ids)


def test_connections_that_swallow_everything_are_given_up(
    new_sqlite: NewDatabase, new_proxied_deployment: NewProxiedDeployment, proxied_kafka: ProxiedKafka
) -> None:
    """As after a router between relay and broker has forgotten them: rows flow again within seconds after it."""
    deployment = new_proxied_deployment(new_sqlite())
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    deployment.wait_drained()
    with proxied_kafka.proxy.half_open(BOTH_DIRECTIONS):
        ids += deployment.record(new_rows(50))
        relay.wait_degraded("shard 0", "did not answer")
    deployment.wait_drained(45)  # a connection that is used for a minute more would be seen here
    deployment.check_exactly_once(ids)


def test_the_broker_forgets_the_id_of_a_paused_owner(
    new_database: NewDatabase, new_proxied_deployment: NewProxiedDeployment, proxied_kafka: ProxiedKafka
) -> None:
    """transactional.id.expiration.ms passes while the owner is idle and paused: the next rows arrive once."""
    prefix = f"idle-{uuid.uuid4().hex[:8]}-"
    deployment = new_proxied_deployment(new_database(), KAFKA_TRANSACTIONAL_ID_PREFIX=prefix)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.signal(signal.SIGSTOP)
    wait_until(lambda: prefix.encode() not in proxied_kafka.transactions(), "the broker forgets the id")
    relay.signal(signal.SIGCONT)
    ids += deployment.record(new_rows(50))
    deployment.wait_drained()
    assert relay.running()
    deployment.check_exactly_once(ids)


def transactions_of(deployment: Deployment, kafka: ProxiedKafka) -> bytes:
    """What the coordinator says about the world's one transactional id; empty if it does not know it."""
    told = kafka.transactions()
    found = told.find(deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"].encode())
    return told[found : found + 60] if found >= 0 else b""
