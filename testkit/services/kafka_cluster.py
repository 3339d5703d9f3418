"""Three Kafka nodes, each broker and controller, whose connections with each other and with the product can be cut.

A node reaches another through a proxy of its own. All know the others by the same names and ports, as Kafka requires;
each resolves the names to other loopback addresses, where its proxies listen.
"""

import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import Any, Self

from confluent_kafka import ElectionType, KafkaException
from confluent_kafka.admin import AdminClient, TopicMetadata

from testkit.ports import free_port
from testkit.proxy import Proxy, ask_kafka, kafka_messages
from testkit.services.kafka import Kafka
from testkit.services.process import ServiceError
from testkit.waiting import wait_until

NODES = 3
CLUSTER = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "REPLICATION",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "12",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": "4194304",
}
"""Replication as production has it; offsets and transaction state have these factors by default. Fewer partitions of
internal topics and a small cleaner make the start quicker. Every timeout is Kafka's default."""
SMALL = ("-Xmx384m", "-Xms192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Three nodes share a machine with everything else, and restart often."""
DISK_MEBIBYTES = 512
IN_SYNC_SECONDS = 120.0
DESCRIBE_QUORUM, REASSIGN_PARTITIONS = 55, 45
"""API keys."""
ADMIN_TIMEOUT_MS = 30_000


class KafkaNode(Kafka):
    """A broker and controller of a cluster. Tests reach it directly, the product through ``proxy``.

    Args:
        number: its node id, from 1.
        directory: folder for its data, settings and log.
        settings: override those of the class.
    """

    base = CLUSTER

    def __init__(self, number: int, directory: Path, settings: Mapping[str, str]) -> None:
        self.number, self.host = number, f"broker-{number}"
        super().__init__(directory, {"node.id": str(number), **settings})
        self.hosts = directory / "hosts"
        self.data = directory / "data"
        self.java_options = (*SMALL, f"-Djdk.net.hosts.file={self.hosts}")

    def _listeners(self, controller: int) -> dict[str, str]:
        product, replication = free_port(), free_port()
        self.internal_ports = (replication, controller)
        self.proxy = Proxy(product, kafka_messages)
        names = ("PLAINTEXT", "PROXIED", "REPLICATION", "CONTROLLER")
        addresses = (self.bootstrap_servers, *(f"127.0.0.1:{port}" for port in (product, replication, controller)))
        advertised = (
            self.bootstrap_servers,
            f"127.0.0.1:{self.proxy.port}",
            *(f"{self.host}:{port}" for port in self.internal_ports),
        )
        return {
            "listeners": ",".join(f"{name}://{at}" for name, at in zip(names, addresses, strict=True)),
            "advertised.listeners": ",".join(f"{name}://{at}" for name, at in zip(names, advertised, strict=True)),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        }

    def running(self) -> bool:
        """Return whether its process is alive."""
        return self._process is not None and self._process.running()

    def stop(self) -> None:
        """Kill the node, and stop its proxy."""
        super().stop()
        self.proxy.close()


class KafkaCluster:
    """Three nodes. Topics are replicated to all of them, and need two in sync to be written.

    Args:
        directory: folder for their data, settings and logs.
        settings: settings of every node that override the defaults.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.nodes = [
            KafkaNode(number, directory / f"kafka-{number}", settings or {}) for number in range(1, NODES + 1)
        ]
        voters = ",".join(f"{node.number}@{node.host}:{node.internal_ports[1]}" for node in self.nodes)
        for node in self.nodes:
            node.settings["controller.quorum.voters"] = voters
            node.cluster_id = self.nodes[0].cluster_id
        self.bootstrap_servers = ",".join(node.bootstrap_servers for node in self.nodes)
        self.proxied_servers = ",".join(f"127.0.0.1:{node.proxy.port}" for node in self.nodes)
        self.client_config: dict[str, Any] = {"bootstrap.servers": self.bootstrap_servers}
        self._links: dict[tuple[int, int], list[Proxy]] = {}
        """By the node that connects and the node that it connects to."""
        self.small_disks: list[KafkaNode] = []
        """Nodes whose disk can be filled."""

    def start(self) -> Self:
        """Start every node, and wait until all answer."""
        for node in self.nodes:
            self._link(node)
        self.start_nodes(self.nodes)
        return self

    def start_nodes(self, nodes: Sequence[KafkaNode]) -> None:
        """Start nodes at the same time, as far as they do not run, and wait until they answer.

        Raises:
            ServiceError: one ended or was not ready in time.
        """
        for node in nodes:
            if not node.running():
                node.launch()
        for node in nodes:
            node.process.wait_ready()

    def _link(self, node: KafkaNode) -> None:
        """Let a node reach the others through proxies on addresses that only it uses."""
        node.hosts.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"127.0.0.1 localhost {socket.gethostname()} {node.host}"]
        for other in self.nodes:
            if other is not node:
                address = f"127.0.{node.number}.{other.number}"
                lines.append(f"{address} {other.host}")
                try:
                    proxies = [Proxy(port, address=(address, port)) for port in other.internal_ports]
                except OSError as error:
                    raise ServiceError(
                        f"{address} is not a local address, which a Kafka cluster needs: {error}"
                    ) from None
                self._links[node.number, other.number] = proxies
        node.hosts.write_text("".join(f"{line}\n" for line in lines))

    def limit_disk(self, node: KafkaNode) -> None:
        """Give a node a small disk of its own (a tmpfs, which needs root) before it starts.

        Raises:
            ServiceError: it cannot be mounted.
        """
        node.data.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m", "outbox-kafka", str(node.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServiceError(f"no small disk can be mounted: {done.stderr}")
        self.small_disks.append(node)

    def stop(self) -> None:
        """Kill every node. Their data is not needed afterwards."""
        for node in self.nodes:
            node.stop()
        for proxies in self._links.values():
            for proxy in proxies:
                proxy.close()
        for node in self.small_disks:
            subprocess.run(["umount", str(node.data)], check=False)

    def links_of(self, node: KafkaNode) -> list[Proxy]:
        """The links between a node and the others, in both directions."""
        return [proxy for pair, proxies in self._links.items() if node.number in pair for proxy in proxies]

    @contextmanager
    def isolated(self, node: KafkaNode) -> Iterator[None]:
        """Cut a node off from the others within the block."""
        with ExitStack() as stack:
            for proxy in self.links_of(node):
                stack.enter_context(proxy.down())
            yield

    # Who does what -----------------------------------------------------------------------------

    def coordinator(self, transactional_id: str) -> KafkaNode:
        """The coordinator of a transactional id, which is the leader of a partition of the transaction state."""
        partitions = int(CLUSTER["transaction.state.log.num.partitions"])
        return self.leader("__transaction_state", abs(java_hash(transactional_id)) % partitions)

    def leader(self, topic: str, partition: int) -> KafkaNode:
        """The leader of a partition, once there is one."""

        def number_of_leader() -> int:
            found = topics_of(self.active_controller()).get(topic)
            return max(0, found.partitions[partition].leader) if found else 0

        what = f"partition {partition} of {topic} has a leader"
        number: int = wait_until(number_of_leader, what, IN_SYNC_SECONDS)
        return self.nodes[number - 1]

    def active_controller(self) -> KafkaNode:
        """The active controller. Metadata names any broker in its place."""
        topic = compact(b"__cluster_metadata")
        body = b"\x02" + topic + struct.pack(">Bixxx", 2, 0)
        answer = self._request(DESCRIBE_QUORUM, body)
        leader: int = struct.unpack_from(">Bihi", answer, answer.index(topic) + len(topic))[3]
        return self.nodes[leader - 1]

    def in_sync(self) -> bool:
        """Return whether every replica of every partition is in sync, as far as each node knows."""
        return all(_in_sync(topics_of(node)) for node in self.nodes)

    def wait_in_sync(self) -> None:
        """Wait until every replica of every partition is in sync."""
        wait_until(self.in_sync, "every replica is in sync", IN_SYNC_SECONDS)

    def move_leaders(self) -> None:
        """Make the next replica of each partition its leader: also the coordinators move."""
        topics = topics_of(self.active_controller())
        body = struct.pack(">i", ADMIN_TIMEOUT_MS) + bytes([len(topics) + 1])
        for name, topic in topics.items():
            body += compact(name.encode()) + bytes([len(topic.partitions) + 1])
            for number, partition in topic.partitions.items():
                replicas = [*partition.replicas[1:], partition.replicas[0]]
                body += struct.pack(f">iB{NODES}ix", number, NODES + 1, *replicas)
            body += b"\x00"
        self._request(REASSIGN_PARTITIONS, body + b"\x00")
        admin = AdminClient(self.client_config)
        admin.elect_leaders(ElectionType.PREFERRED).result(ADMIN_TIMEOUT_MS / 1000)

    def _request(self, key: int, body: bytes) -> bytes:
        """Send a request of version 0 with tagged fields to the first node that answers, and return its response."""
        # Header: key, version, correlation id, no client id, no tagged fields.
        request = struct.pack(">hhihB", key, 0, 1, -1, 0) + body
        for node in self.nodes:
            with suppress(OSError, StopIteration):
                return ask_kafka(node.bootstrap_servers, request)
        raise ServiceError("no Kafka node answers")


def topics_of(node: KafkaNode) -> dict[str, TopicMetadata]:
    """Return every topic as a node describes it; none if it does not answer."""
    try:
        return AdminClient({**node.client_config, "log_level": 0}).list_topics(timeout=5).topics
    except KafkaException:
        return {}


def _in_sync(topics: Mapping[str, TopicMetadata]) -> bool:
    partitions = [partition for topic in topics.values() for partition in topic.partitions.values()]
    return bool(partitions) and all(len(partition.isrs) == NODES for partition in partitions)


def compact(text: bytes) -> bytes:
    """Return a text of less than 127 bytes as Kafka's protocol writes it."""
    return bytes([len(text) + 1]) + text


def java_hash(text: str) -> int:
    """Return the ``hashCode`` of a Java string."""
    value = reduce(lambda total, character: (31 * total + ord(character)) & 0xFFFFFFFF, text, 0)
    return value - (1 << 32) if value >> 31 else value
