"""A broker with a login and ACLs that an administrator changes while it runs, reached by a host name through proxies.

Tests reach it by a listener without a login, with every right. The product reaches it by SASL_SSL under ``HOST``, which
stands for a proxy on one of two addresses.
"""

import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import NamedTuple

import trustme
from confluent_kafka.admin import AclOperation, ResourceType

from testkit.ports import free_port
from testkit.preload import HostNames
from testkit.proxy import Proxy, ask_kafka
from testkit.services.kafka import AuthorizingKafka, write_keystore
from testkit.topic import configure

HOST = "kafka1.example.com"
ADDRESSES = ("127.0.0.2", "127.0.0.3")
REAUTHENTICATION_SECONDS = 5
"""How long a session lasts before its client has to authenticate again."""
BROKER_ID = "1"
KEYSTORE = "listener.name.clients.ssl.keystore.location"
ALTER_CLIENT_QUOTAS = 49
"""API key of the request, which the Python client lacks."""
ONE_ENTRY = struct.pack(">i", 1)
"""The length of an array with one entry."""
WRITE, READ, DESCRIBE = AclOperation.WRITE, AclOperation.READ, AclOperation.DESCRIBE


class Rights(NamedTuple):
    """Rights of a user on a resource, or on every resource whose name has the prefix."""

    kind: ResourceType
    name: str
    operations: tuple[AclOperation, ...]
    prefix: bool = False


def relay_rights(environ: Mapping[str, str]) -> tuple[Rights, Rights, Rights]:
    """The rights that docs/secure-kafka.md grants a relay: on transactional ids, topic and progress topic."""
    progress = (READ, WRITE, DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    return (
        Rights(ResourceType.TRANSACTIONAL_ID, environ["KAFKA_TRANSACTIONAL_ID_PREFIX"], (WRITE, DESCRIBE), prefix=True),
        Rights(ResourceType.TOPIC, environ["KAFKA_TOPIC"], (WRITE, DESCRIBE)),
        Rights(ResourceType.TOPIC, environ["KAFKA_PROGRESS_TOPIC"], progress),
    )


class AdministeredKafka(AuthorizingKafka):
    """A broker whose rights, passwords, certificates, quotas and settings change while it runs.

    Args:
        directory: for its data, settings, certificates and log.
        names: where the product looks host names up.
    """

    def __init__(self, directory: Path, names: HostNames) -> None:
        self.names = names
        super().__init__(directory)

    def _listeners(self, controller: int) -> dict[str, str]:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._numbers = count()
        self.authority = trustme.CA()
        self.ca_location = self._directory / "ca.pem"
        self.trust(self.authority)
        port = free_port()
        first = Proxy(port, address=(ADDRESSES[0], 0))
        self.proxies = [first, Proxy(port, address=(ADDRESSES[1], first.port))]
        """The one that ``HOST`` stands for comes first."""
        self.names.point(HOST, first.host)
        self.secured_servers = f"{HOST}:{first.port}"
        direct, clients = f"DIRECT://{self.bootstrap_servers}", f"CLIENTS://127.0.0.1:{port}"
        return {
            "listeners": f"{direct},{clients},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"{direct},CLIENTS://{self.secured_servers}",
            "listener.security.protocol.map": "DIRECT:PLAINTEXT,CLIENTS:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "DIRECT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.clients.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "connections.max.reauth.ms": f"{REAUTHENTICATION_SECONDS}000",
            "listener.name.clients.ssl.keystore.type": "PEM",
            KEYSTORE: str(self._write_certificate()),
            "ssl.allow.dn.changes": "true",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
        }

    def stop(self) -> None:
        """Stop the broker and the proxies."""
        super().stop()
        for proxy in self.proxies:
            proxy.close()

    def cut(self) -> None:
        """Reset the product's connections."""
        for proxy in self.proxies:
            proxy.cut()

    # Certificates ----------------------------------------------------------------------------------

    def trust(self, *authorities: trustme.CA) -> None:
        """Write the file of the authorities that the product trusts."""
        following = self.ca_location.with_suffix(".new")
        following.write_bytes(b"".join(authority.cert_pem.bytes() for authority in authorities))
        following.replace(self.ca_location)

    def renew_certificate(self, *, expired: bool = False) -> None:
        """Let the broker use a new certificate of the present authority for its next connections."""
        self.configure(ResourceType.BROKER, BROKER_ID, {KEYSTORE: str(self._write_certificate(expired=expired))})

    def _write_certificate(self, *, expired: bool = False) -> Path:
        path = self._directory / f"server-{next(self._numbers)}.pem"
        yesterday = datetime.now(UTC) - timedelta(days=1)
        write_keystore(path, self.authority.issue_cert(HOST, not_after=yesterday if expired else None))
        return path

    # Rights and settings ---------------------------------------------------------------------------

    def grant(self, user: str, rights: Rights) -> None:
        """Grant rights to a user."""
        self.allow(user, rights.kind, rights.name, rights.operations, prefix=rights.prefix)

    def withdraw(self, user: str, rights: Rights) -> None:
        """Revoke rights that were granted."""
        for operation in rights.operations:
            self.revoke(user, rights.kind, rights.name, operation)

    def configure(self, kind: ResourceType, name: str, settings: Mapping[str, str | None]) -> None:
        """Change settings of a topic or the broker; None: back to the default."""
        configure(self.client_config, kind, name, settings)

    def limit_user(self, user: str, quota: str, value: float | None) -> None:
        """Set a quota of a user, such as ``producer_byte_rate``; None: lift it."""
        entity = ONE_ENTRY + _text("user") + _text(user)
        change = ONE_ENTRY + _text(quota) + struct.pack(">d?", value or 0, value is None)
        header = struct.pack(">hhih", ALTER_CLIENT_QUOTAS, 0, 1, -1)
        request = header + ONE_ENTRY + entity + change + struct.pack(">?", 0)
        answer = ask_kafka(self.bootstrap_servers, request, timeout=10)
        # Length, correlation id, throttle time, number of entries, then the entry's error code.
        (code,) = struct.unpack_from(">h", answer, 16)
        assert code == 0, answer


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()
