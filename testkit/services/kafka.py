"""Apache Kafka: one broker in KRaft mode, open or with SASL_SSL, SCRAM and ACLs."""

import base64
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from testkit.ports import free_port
from testkit.services.java import cached, java, maven
from testkit.services.process import Process, ServiceError

SHIPPED = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "num.network.threads": "3",
    "num.io.threads": "8",
    "socket.send.buffer.bytes": "102400",
    "socket.receive.buffer.bytes": "102400",
    "socket.request.max.bytes": "104857600",
    "num.partitions": "1",
    "num.recovery.threads.per.data.dir": "1",
    "offsets.topic.replication.factor": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "log.retention.hours": "168",
    "log.segment.bytes": "1073741824",
    "log.retention.check.interval.ms": "300000",
}
"""``config/server.properties`` as Kafka 4 ships it, without addresses and directories."""
TUNED = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "2",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": "4194304",
}
"""For a small, quick start. What clients notice is as shipped: topics created on demand, with one partition."""
ADMIN, PASSWORD = "admin", "admin-secret"
SCRIPTS = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
}


def jars() -> Path:
    """The directory of Kafka's jars."""
    with cached("kafka-4.3.1") as (folder, building):
        if building:
            maven("dependency:copy-dependencies", building)
        return folder


def install_scripts(folder: Path) -> None:
    """Create Kafka's scripts in a folder, as they are called in the documents."""
    for name, tool in SCRIPTS.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{java(17)}" -cp "{jars()}/*" {tool} "$@"\n')
        script.chmod(0o755)


class Kafka:
    """A broker.

    Args:
        directory: for its data, settings and log.
        settings: override those of the class.
    """

    base: Mapping[str, str] = TUNED
    java_options: Sequence[str] = ("-Xmx768m", "-Xms256m")

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._port, controller = free_port(), free_port()
        self.cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.bootstrap_servers = f"127.0.0.1:{self._port}"
        self.settings = {
            **self.base,
            "log.dirs": str(directory / "data"),
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            **self._listeners(controller),
            **(settings or {}),
        }
        self.client_config: dict[str, Any] = {"bootstrap.servers": self.bootstrap_servers}
        self.environ: dict[str, str] = {}
        """Variables of its process, besides this process's."""
        self._process: Process | None = None

    def _listeners(self, controller: int) -> dict[str, str]:
        return {
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }

    def start(self) -> Self:
        """Format the data directory at the first start, start, and wait until the broker answers."""
        self.launch()
        self.process.wait_ready()
        return self

    def launch(self) -> None:
        """Start as ``start`` does, without waiting."""
        classpath = f"{jars()}/*"
        runtime = java(17)
        properties = self._directory / "server.properties"
        if not properties.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            properties.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
            command = [runtime, "-cp", classpath, "kafka.tools.StorageTool", "format"]
            command.append(f"--cluster-id={self.cluster_id}")  # one argument: an id may begin with a dash
            done = subprocess.run(
                [*command, "-c", str(properties), *self._format_options()],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ServiceError(
                    f"Kafka's data directory cannot be formatted:\n{(done.stdout + done.stderr)[-1500:]}"
                )
        command = [runtime, *self.java_options, "-cp", classpath, "kafka.Kafka", str(properties)]
        self._process = Process(command, self._directory / "kafka.log", self._answers, self.environ)
        self._process.launch()

    def _format_options(self) -> Sequence[str]:
        return ()

    def _answers(self) -> bool:
        try:
            AdminClient({**self.client_config, "log_level": 0}).list_topics(timeout=2)
        except KafkaException:
            return False
        return True

    @property
    def process(self) -> Process:
        """The broker's process, to kill, pause and resume."""
        if self._process is None:
            raise ServiceError("Kafka is not started")
        return self._process

    def admin(self) -> AdminClient:
        """An admin client with every right."""
        return AdminClient(self.client_config)

    def limit_producers(self, bytes_per_second: int) -> None:
        """Set a quota for every producer."""
        command = [java(17), "-cp", f"{jars()}/*", "kafka.admin.ConfigCommand"]
        command += ["--bootstrap-server", self.bootstrap_servers, "--alter"]
        command += ["--add-config", f"producer_byte_rate={bytes_per_second}"]
        command += ["--entity-type", "clients", "--entity-default"]
        subprocess.run(command, check=True, capture_output=True)

    def stop(self) -> None:
        """Kill the broker. Its data is not needed afterwards."""
        if self._process is not None:
            self._process.kill()


def write_keystore(path: Path, server: trustme.LeafCert) -> None:
    """Write a broker's key and certificate for Java, which reads private keys in PKCS#8 only."""
    private = load_pem_private_key(server.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.write_bytes(private + b"".join(part.bytes() for part in server.cert_chain_pems))


class StockKafka(Kafka):
    """A broker with the settings it ships with."""

    base = SHIPPED


class AuthorizingKafka(Kafka):
    """A broker with users and their rights."""

    def add_user(self, user: str, password: str) -> None:
        """Create a user without rights."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        admin = self.admin()
        for future in admin.alter_user_scram_credentials([change]).values():
            future.result(10)

    def allow(
        self, user: str, kind: ResourceType, name: str, operations: Sequence[AclOperation], *, prefix: bool
    ) -> None:
        """Grant rights on a resource, or on every resource whose name has the prefix."""
        pattern = ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL
        rights = [
            AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]
        admin = self.admin()
        for future in admin.create_acls(rights).values():
            future.result(10)

    def revoke(self, user: str, kind: ResourceType, name: str, operation: AclOperation) -> None:
        """Revoke a right that ``allow`` has granted, with either kind of pattern."""
        right = AclBindingFilter(
            kind, name, ResourcePatternType.ANY, f"User:{user}", "*", operation, AclPermissionType.ANY
        )
        admin = self.admin()
        for future in admin.delete_acls([right]).values():
            future.result(10)


class SecureKafka(AuthorizingKafka):
    """A broker with SASL_SSL, SCRAM-SHA-512 and ACLs."""

    def _listeners(self, controller: int) -> dict[str, str]:
        self._directory.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        self.ca_location = str(self._directory / "ca.pem")
        keystore = self._directory / "server.pem"
        authority.cert_pem.write_to_path(self.ca_location)
        write_keystore(keystore, authority.issue_cert("127.0.0.1", "localhost"))
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        login = f'{module} required username="{ADMIN}" password="{PASSWORD}";'
        return {
            "listeners": f"SASL_SSL://{self.bootstrap_servers},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"SASL_SSL://{self.bootstrap_servers}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": login,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca_location,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:ANONYMOUS",  # the controller's listener has no login
        }

    def _format_options(self) -> Sequence[str]:
        return ("--add-scram", f"SCRAM-SHA-512=[name={ADMIN},password={PASSWORD}]")

    def start(self) -> Self:
        """Start, and set the client configuration to the administrator's login."""
        self.client_config |= self.login(ADMIN, PASSWORD)
        super().start()
        return self

    def login(self, user: str, password: str) -> dict[str, str]:
        """The client configuration of a user."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password,
            "ssl.ca.location": self.ca_location,
        }


class MutualTlsKafka(Kafka):
    """A broker that authenticates clients by certificate. Its certificates can be replaced while it is stopped."""

    def _listeners(self, controller: int) -> dict[str, str]:
        self._directory.mkdir(parents=True, exist_ok=True)
        names = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
        self.locations = {what: str(self._directory / name) for what, name in names.items()}
        self.renew()
        return {
            "listeners": f"SSL://{self.bootstrap_servers},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"SSL://{self.bootstrap_servers}",
            "listener.security.protocol.map": "SSL:SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SSL",
            "ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._directory / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.locations["ca"],
        }

    def renew(self) -> None:
        """Replace the authority and every certificate, in the same files."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.locations["ca"])
        write_keystore(self._directory / "server.pem", authority.issue_cert("127.0.0.1", "localhost"))
        client = authority.issue_cert("relay@example.com")
        client.private_key_pem.write_to_path(self.locations["key"])
        client.cert_chain_pems[0].write_to_path(self.locations["certificate"])

    def start(self) -> Self:
        """Start, and set the client configuration to a client's certificate."""
        names = {"ca": "ssl.ca.location", "certificate": "ssl.certificate.location", "key": "ssl.key.location"}
        self.client_config |= {names[what]: path for what, path in self.locations.items()}
        self.client_config["security.protocol"] = "SSL"
        super().start()
        return self
