"""The broker: reachable, with TLS and a login that works."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from outbox.db.tls import is_loopback
from relay.check.finding import Finding, failure, ok, warning
from relay.kafka.client import LIBRDKAFKA_LOG, REQUEST_TIMEOUT_SECONDS
from relay.kafka.errors import REMEDIES, describe
from relay.settings import RelaySettings, kafka_client_config, remote_kafka_hosts

CONNECT_TIMEOUT_SECONDS = 3.0
CONCLUSIVE = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION})
"""Errors after which waiting for an answer is useless."""
CHECK_PROTOCOL = "check KAFKA_SECURITY_PROTOCOL, the listener may use another one; also check that the broker responds"


class Cluster(NamedTuple):
    """A cluster that answered."""

    id: str
    brokers: Sequence[tuple[str, int]]
    """Host and port of each broker, as the cluster advertises them."""


class ClientErrors:
    """Collects the client's errors. Pass it to the client as its ``error_cb``."""

    def __init__(self) -> None:
        self._errors: list[KafkaError] = []

    def __call__(self, error: KafkaError) -> None:
        """Add an error, unless it says only that all brokers are down."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._errors.append(error)

    @property
    def conclusive(self) -> KafkaError | None:
        """The first error of the login or of TLS."""
        return next((error for error in self._errors if error.code() in CONCLUSIVE), None)

    @property
    def main(self) -> KafkaError | None:
        """The error that says most: a conclusive one, otherwise the first."""
        return self.conclusive or next(iter(self._errors), None)


def check_broker(settings: RelaySettings) -> tuple[list[Finding], AdminClient | None, Cluster | None]:
    """Check connection, TLS and login; return a client and the cluster as well if the cluster answers."""
    reached = _check_bootstrap_servers(settings.kafka_bootstrap_servers)
    if reached.remedy:
        return [reached], None, None
    errors = ClientErrors()
    config: dict[str, Any] = {**kafka_client_config(settings), "error_cb": errors}
    try:
        admin = AdminClient(config, logger=LIBRDKAFKA_LOG)
    except KafkaException as exception:
        remedy = "correct KAFKA_CONFIG, KAFKA_SSL_… or KAFKA_SASL_…"
        return [reached, failure("broker settings", describe(exception.args[0]), remedy)], None, None
    cluster = _describe_cluster(admin, errors)
    if cluster is None:
        return [reached, judge_no_answer(settings, errors.main)], None, None
    advertised = [_connection_error(*broker) for broker in cluster.brokers]
    return [reached, *judge_cluster(settings, cluster, advertised)], admin, cluster


def _check_bootstrap_servers(servers: str) -> Finding:
    """Whether any of them accepts a connection."""
    errors = []
    for server in filter(None, (part.strip() for part in servers.split(","))):
        host, _, port = server.rpartition(":")
        error = _connection_error(host.strip("[]"), int(port)) if host and port.isdecimal() else "not host:port"
        if error is None:
            return ok("broker", f"{server} accepts connections")
        errors.append(f"{server}: {error}")
    remedy = "start the broker, open the network path to it, or correct KAFKA_BOOTSTRAP_SERVERS"
    return failure("broker", "; ".join(errors) or "no server is named", remedy)


def _connection_error(host: str, port: int) -> str | None:
    """Why no connection can be made; None if it can."""
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_SECONDS).close()
    except socket.gaierror:
        return "the name cannot be resolved"
    except (OSError, OverflowError) as error:
        return f"no connection ({type(error).__name__})"
    return None


def _describe_cluster(admin: AdminClient, errors: ClientErrors) -> Cluster | None:
    """None: no answer."""
    future = admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_SECONDS)
    deadline = monotonic() + REQUEST_TIMEOUT_SECONDS
    while not future.done() and monotonic() < deadline:
        admin.poll(0.1)  # calls error_cb
        if errors.conclusive is not None:
            return None
    with suppress(KafkaException, TimeoutError):
        found = future.result(0.1)
        return Cluster(found.cluster_id, [(node.host, node.port) for node in found.nodes])
    return None


def judge_no_answer(settings: RelaySettings, error: KafkaError | None) -> Finding:
    """Decide why a broker that accepts connections does not answer."""
    if error is None:
        detail = f"connected with {kafka_client_config(settings)['security.protocol']}, but no answer"
        return failure("broker protocol", detail, CHECK_PROTOCOL)
    detail, text = describe(error), error.str()
    if error.code() == KafkaError._AUTHENTICATION:
        return failure("broker login", detail, REMEDIES[error.code()])
    if "PLAINTEXT broker listener" in text or "security.protocol" in text:
        return failure("broker protocol", detail, CHECK_PROTOCOL)
    if error.code() == KafkaError._SSL or "SSL handshake" in text:
        return failure("broker TLS", detail, REMEDIES[KafkaError._SSL])
    return failure("broker protocol", detail, REMEDIES.get(error.code(), CHECK_PROTOCOL))


def judge_cluster(settings: RelaySettings, cluster: Cluster, errors: Sequence[str | None]) -> list[Finding]:
    """Judge TLS, the login, and whether every broker is reachable at the address that the cluster advertises.

    Args:
        cluster: the cluster.
        errors: for each broker, why no connection can be made to its advertised address; None if one can.
    """
    config = kafka_client_config(settings)
    return [_tls(settings, config, cluster), _login(config), _advertised(cluster, errors)]


def _tls(settings: RelaySettings, config: dict[str, Any], cluster: Cluster) -> Finding:
    if config["security.protocol"].upper().endswith("SSL"):
        return ok("broker TLS", "the broker's certificate is verified")
    if not remote_kafka_hosts(settings.kafka_bootstrap_servers) and all(
        is_loopback(host) for host, _ in cluster.brokers
    ):
        return ok("broker TLS", "off, on this machine")
    remedy = "set KAFKA_SECURITY_PROTOCOL=SASL_SSL and KAFKA_SSL_CA_LOCATION"
    return warning("broker TLS", "off: interactions and the login can be read in transit", remedy)


def _login(config: dict[str, Any]) -> Finding:
    if "sasl.username" in config:
        return ok("broker login", f"logged in as {config['sasl.username']} with {config['sasl.mechanism']}")
    if "ssl.certificate.location" in config:
        return ok("broker login", "by certificate")
    return ok("broker login", "none required")


def _advertised(cluster: Cluster, errors: Sequence[str | None]) -> Finding:
    unreachable = [
        f"{host}:{port} ({error})" for (host, port), error in zip(cluster.brokers, errors, strict=True) if error
    ]
    if unreachable:
        remedy = "start them, or correct the brokers' advertised.listeners: clients connect to those addresses"
        return failure("brokers", f"not reachable as advertised: {', '.join(unreachable)}", remedy)
    return ok("brokers", f"all {len(cluster.brokers)} of cluster {cluster.id} are reachable as advertised")
