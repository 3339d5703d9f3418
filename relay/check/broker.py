"""The broker: reachable, TLS, login, and transactions under an id that no shard has."""

import logging
import socket
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from outbox.network import is_loopback
from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.kafka.errors import REMEDIES, REQUEST_SECONDS, describe
from relay.settings import RelaySettings, kafka_client_config, kafka_producer_config, remote_kafka_hosts

log = logging.getLogger("relay.librdkafka")

CONNECT_SECONDS = 3.0
TELLING = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION})  # noqa: SLF001
"""Complaints after which there is nothing to wait for."""
TRANSACTION_SECONDS = 15.0
PROBE_MS = 10_000
"""After which the broker aborts a probe's transaction that nobody has ended."""
CHECK_PROTOCOL = "check KAFKA_SECURITY_PROTOCOL, for the listener may speak another one, and whether the broker hangs"
REPLICAS_OF_STATE = (
    "see that the broker's __transaction_state has its replicas: transaction.state.log.replication.factor and "
    "transaction.state.log.min.isr must not exceed the number of brokers that are up"
)
ACLS = "kafka-acls.sh --bootstrap-server {servers} --add --allow-principal User:{user}"


class Cluster(NamedTuple):
    """A cluster that answered."""

    id: str
    brokers: list[tuple[str, int]]
    """Host and port of each, as the cluster advertises them."""


class Complaints:
    """What the client says goes wrong; given to it as its ``error_cb``."""

    def __init__(self) -> None:
        self.errors: list[KafkaError] = []

    def __call__(self, error: KafkaError) -> None:
        """Note an error."""
        self.errors.append(error)

    def telling(self) -> KafkaError | None:
        """The one that says most: of the login, of TLS, or any but "all brokers are down"."""
        told = [error for error in self.errors if error.code() != KafkaError._ALL_BROKERS_DOWN]  # noqa: SLF001
        return next((error for error in told if error.code() in TELLING), told[0] if told else None)


def check_broker(settings: RelaySettings) -> tuple[list[Finding], AdminClient | None, Cluster | None]:
    """Reachable, TLS, login; with a client and the cluster, if it can be talked to."""
    reached = _reach(settings.kafka_bootstrap_servers)
    if reached.cure:
        return [reached], None, None
    complaints = Complaints()
    try:
        admin = AdminClient({**kafka_client_config(settings), "error_cb": complaints}, logger=log)  # type: ignore[dict-item]
    except KafkaException as exception:
        seen = describe(exception.args[0])
        return (
            [reached, failure("broker settings", seen, "correct KAFKA_CONFIG, KAFKA_SSL_… or KAFKA_SASL_…")],
            None,
            None,
        )
    cluster = _describe(admin, complaints)
    if cluster is None:
        return [reached, judge_silence(settings, complaints.telling())], None, None
    advertised = [_connects(*broker) for broker in cluster.brokers]
    return [reached, *judge_cluster(settings, cluster, advertised)], admin, cluster


def _reach(servers: str) -> Finding:
    errors = []
    for server in filter(None, (part.strip() for part in servers.split(","))):
        host, _, port = server.rpartition(":")
        error = _connects(host.strip("[]"), int(port)) if host and port.isdecimal() else "takes host:port"
        if error is None:
            return ok("broker", f"{server} takes connections")
        errors.append(f"{server}: {error}")
    cure = "start the broker, open the way to it, or correct KAFKA_BOOTSTRAP_SERVERS"
    return failure("broker", "; ".join(errors) or "no server is named", cure)


def _connects(host: str, port: int) -> str | None:
    """None, or why no connection can be made."""
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except socket.gaierror:
        return "the name cannot be resolved"
    except (OSError, OverflowError) as error:
        return f"no connection ({type(error).__name__})"
    return None


def _describe(admin: AdminClient, complaints: Complaints) -> Cluster | None:
    future = admin.describe_cluster(request_timeout=REQUEST_SECONDS)
    deadline = monotonic() + REQUEST_SECONDS
    while not future.done() and monotonic() < deadline:
        admin.poll(0.1)  # serves the complaints
        telling = complaints.telling()
        if telling is not None and telling.code() in TELLING:
            return None
    with suppress(KafkaException, TimeoutError):
        found = future.result(0.1)
        return Cluster(found.cluster_id, [(node.host, node.port) for node in found.nodes])
    return None


def judge_silence(settings: RelaySettings, error: KafkaError | None) -> Finding:
    """Why a broker that takes connections cannot be talked to."""
    if error is None:
        seen = f"connected, but no answer in {kafka_client_config(settings)['security.protocol']}"
        return failure("broker protocol", seen, CHECK_PROTOCOL)
    seen, told = describe(error), error.str()
    if error.code() == KafkaError._AUTHENTICATION:  # noqa: SLF001
        return failure("broker login", seen, REMEDIES[error.code()])
    if "PLAINTEXT broker listener" in told or "security.protocol" in told:
        return failure("broker protocol", seen, CHECK_PROTOCOL)
    if error.code() == KafkaError._SSL or "SSL handshake" in told:  # noqa: SLF001
        return failure("broker TLS", seen, REMEDIES[KafkaError._SSL])  # noqa: SLF001
    return failure("broker protocol", seen, REMEDIES.get(error.code(), CHECK_PROTOCOL))


def judge_cluster(settings: RelaySettings, cluster: Cluster, advertised: list[str | None]) -> list[Finding]:
    """TLS, login, and whether every broker can be reached as the cluster advertises it."""
    servers, config = settings.kafka_bootstrap_servers, kafka_client_config(settings)  # with KAFKA_CONFIG
    if config["security.protocol"].upper().endswith("SSL"):
        tls = ok("broker TLS", "the broker's certificate is verified")
    elif not remote_kafka_hosts(servers) and all(is_loopback(host) for host, _ in cluster.brokers):
        tls = ok("broker TLS", "off, on this machine")
    else:
        cure = "set KAFKA_SECURITY_PROTOCOL=SASL_SSL and KAFKA_SSL_CA_LOCATION"
        tls = warning("broker TLS", "off: interactions and the login can be read on the way", cure)
    if "sasl.username" in config:
        login = ok("broker login", f"logged in as {config['sasl.username']} by {config['sasl.mechanism']}")
    elif "ssl.certificate.location" in config:
        login = ok("broker login", "by certificate")
    else:
        login = ok("broker login", "none is asked for")
    unreached = [f"{b[0]}:{b[1]} ({e})" for b, e in zip(cluster.brokers, advertised, strict=True) if e]
    if unreached:
        cure = "start them, or correct the brokers' advertised.listeners: clients are sent to those addresses"
        brokers = failure("brokers", f"not reached as advertised: {', '.join(unreached)}", cure)
    else:
        brokers = ok("brokers", f"all {len(cluster.brokers)} of cluster {cluster.id} are reached as advertised")
    return [tls, login, brokers]


def check_transactions(settings: RelaySettings) -> list[Finding]:
    """Whether transactions may be opened, tried with the id ``<prefix>check``: a shard's would fence its relay."""
    complaints = Complaints()
    transactional_id = f"{settings.kafka_transactional_id_prefix}check"
    try:
        producer = Producer(
            {
                **kafka_producer_config(settings),
                "transactional.id": transactional_id,
                "error_cb": complaints,
            },
            logger=log,
        )
    except KafkaException as exception:
        cure = "correct KAFKA_CONFIG: takes a JSON object of librdkafka's producer settings"
        return [failure("transactions", describe(exception.args[0]), cure)]
    try:
        producer.init_transactions(TRANSACTION_SECONDS)
    except KafkaException as exception:
        return [judge_transactions(settings, exception.args[0], complaints.telling())]
    return [ok("transactions", f"init_transactions works with {transactional_id}, and its time-out is accepted")]


def check_clock(settings: RelaySettings) -> Finding:
    """Whether the broker takes records with this host's time, tried in a transaction that is aborted.

    The progress topic has to be there, and the rights on it.
    """
    refused: list[KafkaError] = []
    producer = Producer(
        {
            **kafka_producer_config(settings),
            "transactional.id": f"{settings.kafka_transactional_id_prefix}check",
            "transaction.timeout.ms": PROBE_MS,
            "message.timeout.ms": PROBE_MS,
            "on_delivery": lambda error, _message: refused.append(error) if error else None,
        },
        logger=log,
    )
    try:
        producer.init_transactions(TRANSACTION_SECONDS)
        producer.begin_transaction()
        producer.produce(settings.kafka_progress_topic, b"", b"check", 0)
        left = producer.flush(TRANSACTION_SECONDS)
        producer.abort_transaction(TRANSACTION_SECONDS)
    except KafkaException as exception:
        return judge_clock(exception.args[0])
    return judge_clock(refused[0] if refused else KafkaError(KafkaError._TIMED_OUT) if left else None)  # noqa: SLF001


def judge_clock(error: KafkaError | None) -> Finding:
    """What it means that a record with this host's time is taken, or not."""
    if error is None:
        return ok("broker clock", "the broker takes records with this host's time")
    if error.code() == KafkaError.INVALID_TIMESTAMP:
        seen = f"{describe(error)}: the broker refuses records with this host's time"
        return failure("broker clock", seen, REMEDIES[error.code()])
    return unknown("broker clock", f"a record could not be tried: {describe(error)}", "see the broker's log")


def judge_transactions(settings: RelaySettings, error: KafkaError, telling: KafkaError | None) -> Finding:
    """What it means that ``init_transactions`` fails."""
    code = error.code()
    user, servers = settings.kafka_sasl_username or "…", settings.kafka_bootstrap_servers
    if code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        command = ACLS.format(servers=servers, user=user)
        prefix = settings.kafka_transactional_id_prefix
        cure = (
            f"{REMEDIES[code]}: {command} --operation Write --operation Describe --transactional-id {prefix} "
            "--resource-pattern-type prefixed"
        )
        return failure("transactions", describe(error), cure)
    if code == KafkaError.INVALID_TRANSACTION_TIMEOUT:
        return failure("transactions", f"{describe(error)}: transaction.max.timeout.ms is too low", REMEDIES[code])
    if code == KafkaError._TIMED_OUT:  # noqa: SLF001
        before = f"; before that: {describe(telling)}" if telling else ""
        return failure("transactions", f"no coordinator for transactions{before}", REPLICAS_OF_STATE)
    return unknown("transactions", describe(error), REMEDIES.get(code, "see the broker's log"))
