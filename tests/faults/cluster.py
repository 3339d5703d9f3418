"""Three Kafka nodes and a PostgreSQL server, and the faults of a cluster.

Its transactions are open when a broker stops: the others take over. Brokers and relays have their default timeouts.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

import psutil

from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.proxied_services import restart_service
from testkit.services import ExternalService, KafkaCluster, KafkaNode, Postgres, Registry, ServiceError
from testkit.waiting import wait_until
from tests.faults.nemesis import PARTLY_OPEN, PROCESS_FAULTS, kill_relay, kill_relays, pause, stopped
from tests.faults.single_services import with_driver
from tests.faults.system import PARTITIONS, SETTINGS, Fault, Inject, SystemUnderTest

RELAY_FAULTS = tuple(fault for fault in PROCESS_FAULTS if fault.inject in {kill_relay, kill_relays})
SHARDS = 4
"""As many as partitions, so each shard has one."""
SESSION_SECONDS = 9
"""After so long without a heartbeat the controller gives a broker's partitions to others
(``broker.session.timeout.ms``)."""
FULL_DISK_SECONDS = 60.0
Choose = Callable[[KafkaCluster, SystemUnderTest, Random], Sequence[KafkaNode]]


@contextmanager
def cluster_services(registry: Registry | ExternalService, folder: Path, relays: int) -> Iterator[SystemUnderTest]:
    """Start the product with three brokers and PostgreSQL for the block.

    Args:
        registry: a running registry.
        folder: for data and logs.
        relays: number of relays.
    """
    with ExitStack() as stack:
        cluster = KafkaCluster(folder)
        stack.callback(cluster.stop)
        with suppress(ServiceError):  # without the right to mount a disk, the fault of a full one is left out
            cluster.limit_disk(cluster.nodes[-1])
        cluster.start()
        postgres = Postgres(folder / "postgres")
        stack.callback(postgres.stop)
        postgres.start()
        url = postgres.create_database(f"torture_{uuid.uuid4().hex[:8]}")
        migrate(url, SHARDS)
        settings = {**settings_for(cluster, registry, url), "RELAY_BATCH_SIZE": SETTINGS["RELAY_BATCH_SIZE"]}
        settings |= {"KAFKA_BOOTSTRAP_SERVERS": cluster.proxied_servers}
        deployment = Deployment(with_driver(url), settings, cluster.client_config, folder)
        faults = cluster_faults(cluster) + RELAY_FAULTS
        system = SystemUnderTest(deployment, faults, {"DATABASE_URL": with_driver(url)}, relays, len(cluster.nodes))
        stack.callback(system.close)
        yield system


def cluster_faults(cluster: KafkaCluster) -> tuple[Fault, ...]:
    """Return the faults of a cluster; a full disk only if a node has a small one."""

    def on_brokers(name: str, inject: Inject) -> Fault:
        return Fault(name, "brokers", inject)

    faults = (
        on_brokers("rolling restart", restart_one_by_one(cluster)),
        on_brokers("hasty rolling restart", restart_hastily(cluster)),
        on_brokers("coordinator killed (-9)", kill(cluster, coordinator)),
        on_brokers("active controller killed (-9)", kill(cluster, active_controller)),
        on_brokers("partition's leader killed (-9)", kill(cluster, leader)),
        on_brokers("two of three brokers killed (-9)", kill(cluster, any_two)),
        on_brokers("all brokers killed (-9)", kill(cluster, every_node)),
        on_brokers("coordinator frozen", freeze_coordinator(cluster, 1, SESSION_SECONDS - 1)),
        on_brokers(
            "coordinator frozen past its session",
            freeze_coordinator(cluster, SESSION_SECONDS + 3, 3 * SESSION_SECONDS),
        ),
        on_brokers("leaders moved", move_leaders(cluster)),
        on_brokers("a broker cut off from the others", cut_off_from_brokers(cluster)),
        on_brokers("a broker cut off from the relays", cut_off_from_relays(cluster)),
        on_brokers("a broker half cut off from the relays", half_cut_off_from_relays(cluster)),
    )
    full = tuple(on_brokers("a broker's disk full", fill_disk(cluster, node)) for node in cluster.small_disks)
    return faults + full


# Which nodes ---------------------------------------------------------------------------------------


def coordinator(cluster: KafkaCluster, system: SystemUnderTest, rng: Random) -> Sequence[KafkaNode]:
    """Choose the transaction coordinator of some shard."""
    prefix = system.deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    return [cluster.coordinator(f"{prefix}{rng.randrange(SHARDS) + 1:02d}")]


def active_controller(cluster: KafkaCluster, _: SystemUnderTest, __: Random) -> Sequence[KafkaNode]:
    """Choose the active controller."""
    return [cluster.active_controller()]


def leader(cluster: KafkaCluster, system: SystemUnderTest, rng: Random) -> Sequence[KafkaNode]:
    """Choose the leader of some partition of the topic."""
    return [cluster.leader(system.deployment.topic, rng.randrange(PARTITIONS))]


def any_two(cluster: KafkaCluster, _: SystemUnderTest, rng: Random) -> Sequence[KafkaNode]:
    """Choose two nodes."""
    return rng.sample(cluster.nodes, 2)


def every_node(cluster: KafkaCluster, _: SystemUnderTest, __: Random) -> Sequence[KafkaNode]:
    """Choose all."""
    return cluster.nodes


# Faults --------------------------------------------------------------------------------------------


def restart_one_by_one(cluster: KafkaCluster) -> Inject:
    """Restart each node (SIGTERM); the next one when the last is in sync."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        for node in rng.sample(cluster.nodes, len(cluster.nodes)):
            node.process.stop()
            restore(cluster)

    return inject


def restart_hastily(cluster: KafkaCluster) -> Inject:
    """Restart each node (SIGTERM); the next one as soon as the last answers, which may not be in sync yet."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        for node in rng.sample(cluster.nodes, len(cluster.nodes)):
            node.process.stop()
            restart_service(node.start)
        restore(cluster)

    return inject


def kill(cluster: KafkaCluster, choose: Choose) -> Inject:
    """Kill (-9) nodes at the same time, and restart them, sometimes after their sessions have ended."""

    def inject(system: SystemUnderTest, rng: Random) -> None:
        for node in choose(cluster, system, rng):
            node.process.kill()
        pause(rng.uniform(0, SESSION_SECONDS + 3))
        restore(cluster)

    return inject


def freeze_coordinator(cluster: KafkaCluster, shortest: float, longest: float) -> Inject:
    """Stop (SIGSTOP) the transaction coordinator of a shard for a number of seconds."""

    def inject(system: SystemUnderTest, rng: Random) -> None:
        (node,) = coordinator(cluster, system, rng)
        with stopped([psutil.Process(node.process.pid)]):
            pause(rng.uniform(shortest, longest))
        restore(cluster)

    return inject


def move_leaders(cluster: KafkaCluster) -> Inject:
    """Move the leader of every partition, and so every coordinator, several times."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        for _round in range(3):
            cluster.move_leaders()
            pause(rng.uniform(0, 2))
        restore(cluster)

    return inject


def cut_off_from_brokers(cluster: KafkaCluster) -> Inject:
    """Cut a broker off from the others, as broker and controller; the relays reach it."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with cluster.isolated(rng.choice(cluster.nodes)):
            pause(rng.uniform(1, 3 * SESSION_SECONDS))
        restore(cluster)

    return inject


def cut_off_from_relays(cluster: KafkaCluster) -> Inject:
    """Cut a broker off from the relays: connections are reset and refused. The other brokers reach it, so it leads."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with rng.choice(cluster.nodes).proxy.down():
            pause(rng.uniform(1, 3 * SESSION_SECONDS))

    return inject


def half_cut_off_from_relays(cluster: KafkaCluster) -> Inject:
    """Discard what a broker and the relays send each other, in one direction or both; the other brokers reach it."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        with rng.choice(cluster.nodes).proxy.half_open(rng.choice(PARTLY_OPEN)):
            pause(rng.uniform(1, 3 * SESSION_SECONDS))

    return inject


def fill_disk(cluster: KafkaCluster, node: KafkaNode) -> Inject:
    """Fill the disk of a node, which ends by itself then; make room and restart it."""

    def inject(_: SystemUnderTest, rng: Random) -> None:
        filler = node.data / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        wait_until(lambda: not node.running(), "the broker has ended", FULL_DISK_SECONDS)
        pause(rng.uniform(0, 5))
        filler.unlink()
        restore(cluster)

    return inject


def restore(cluster: KafkaCluster) -> None:
    """Start the nodes that do not run, and wait until every replica is in sync."""
    with suppress(ServiceError):
        cluster.start_nodes(cluster.nodes)
    for node in cluster.nodes:
        if not node.running():
            restart_service(node.start)
    cluster.wait_in_sync()
