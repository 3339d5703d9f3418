"""What the relay reads from the environment."""

import json
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from config.settings import BaseSettings, HostToBind, Shards
from config.values import http_url, servers, topic
from outbox.db.tls import is_loopback

FORBIDDEN_KAFKA_CONFIG = frozenset(
    {
        "acks",
        "allow.auto.create.topics",
        "request.required.acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "metadata.broker.list",
        "delivery.report.only.error",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "isolation.level",
        "logger",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "message.send.max.retries",
        "on_delivery",
        "partitioner",
        "plugin.library.paths",
        "retries",
        "sticky.partitioning.linger.ms",
        "transactional.id",
    }
)
"""librdkafka settings that would break the promise, load code, run commands, or have a variable of their own."""
UNVERIFIED_TLS = {
    "enable.ssl.certificate.verification": ("false", "0", "f"),
    "ssl.endpoint.identification.algorithm": ("none",),
}
"""librdkafka settings, and their values that let anybody pass for a broker."""
FORBIDDEN_KAFKA_PREFIXES = (
    "interceptor",
    "offset.store.",  # writes files
    "sasl.kerberos.",  # parts of a shell command
    "ssl.engine.",
    "ssl.providers",
    "test.mock.",
)
FORBIDDEN_KAFKA_SUFFIX = "_cb"
"""Callbacks are code, not settings."""

AGE_UNITS = {"w": 7 * 86_400, "d": 86_400, "h": 3600, "m": 60, "s": 1}
AGE = re.compile("(?=.)" + "".join(rf"(?:(\d{{1,6}}){unit})?" for unit in AGE_UNITS), re.IGNORECASE)
DAY_SECONDS = 86_400.0
SHORTEST_RETENTION_SECONDS = 60.0
"""Senders repeat a call within seconds, and find their row by its key only while the row is there."""


def seconds_of(age: str) -> float | None:
    """Seconds in an age such as ``90s``, ``1h30m``, ``2d`` or ``1w``, larger units first; None if it is none."""
    found = AGE.fullmatch(age)
    if found is None:
        return None
    return float(sum(int(number or 0) * size for number, size in zip(found.groups(), AGE_UNITS.values(), strict=True)))


def _retention(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() == "off":
        return None
    seconds = seconds_of(value)
    if seconds is None or seconds < SHORTEST_RETENTION_SECONDS:
        raise ValueError("takes an age of a minute or more, as 7d, 12h or 90m, or off")
    return seconds


def _topics(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(topic(name.strip()) for name in value.split(","))
    except ValueError:
        raise ValueError("takes topic names, separated by commas") from None


Retention = Annotated[float | None, BeforeValidator(_retention)]
"""Seconds; None: nothing is pruned by itself."""
Topic = Annotated[str, AfterValidator(topic)]
Topics = Annotated[tuple[str, ...], BeforeValidator(_topics)]

LOGINS = {
    "schema_registry_url": "SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD",
    "inference_url": "INFERENCE_TOKEN",
    "cxone_oauth_url": "CXONE_CLIENT_ID and CXONE_CLIENT_SECRET",
    "cxone_enrich_url": "CXONE_CLIENT_ID and CXONE_CLIENT_SECRET",
}
"""What to use instead of a login in a URL, which errors and logs would quote."""


class RelaySettings(BaseSettings):
    """Settings of the relay process and its command line."""

    kafka_bootstrap_servers: Annotated[str, AfterValidator(servers)] = Field(
        description="host:port,host:port of the brokers"
    )
    kafka_topic: Topic = "cxone-interactions-ml"
    kafka_progress_topic: Topic = "cxone-interactions-ml-progress"
    kafka_transactional_id_prefix: str = "cxone-ml-producer-"
    kafka_replay_topics: Topics = ()
    """Where replays may go besides ``kafka_topic``."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_location: str | None = None
    kafka_ssl_certificate_location: str | None = None
    kafka_ssl_key_location: str | None = None
    kafka_config: SecretStr | None = None
    http_ca_location: str | None = None
    """File of PEM certificates that every HTTPS service may have its own from, besides the public authorities."""
    schema_registry_url: str = Field(
        description="the http(s) URL of the Schema Registry, or several separated by commas"
    )
    schema_registry_username: str | None = None
    schema_registry_password: SecretStr | None = None
    inference_url: str | None = None
    inference_token: SecretStr | None = None
    inference_concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    inference_max_attempts: Annotated[int, Field(ge=1, le=1000)] = 20
    inference_allowed_hosts: str | None = None
    """Host names that may be called, separated by commas; None: the URL's own."""
    cxone_oauth_url: str | None = None
    cxone_client_id: str | None = None
    cxone_client_secret: SecretStr | None = None
    cxone_oauth_grant: Literal["client_credentials", "password"] = "client_credentials"
    cxone_access_key_id: str | None = None
    cxone_access_key_secret: SecretStr | None = None
    cxone_oauth_scope: str = "interaction:read"
    cxone_enrich_url: str | None = None
    """Of one interaction: ``{interactionId}`` is replaced; None: no enrichment."""
    cxone_enrich_email_path: str = "/customer/email,/fromAddress,/fromAddr"
    """JSON Pointers into the answer, separated by commas: the first that finds something counts."""
    cxone_enrich_agent_path: str = "/agent/id,/agentId"
    cxone_enrich_rate: Annotated[float, Field(gt=0, le=33)] = 10
    """Requests a second; CXone's published limit for a tenant is 120,000 an hour, 33 a second."""
    cxone_enrich_concurrency: Annotated[int, Field(ge=1, le=32)] = 4
    cxone_enrich_on_outage: Literal["wait", "send"] = "wait"
    relay_shards: Shards | None = None
    """Read by the first migration only; given later, it must be what the outbox has."""
    relay_batch_size: Annotated[int, Field(ge=1, le=50_000)] = 5_000
    relay_lease_seconds: Annotated[float, Field(ge=3, le=600)] = 10
    relay_metrics_host: HostToBind = "127.0.0.1"
    """Address that metrics and health are served on; in a container 0.0.0.0 or ::."""
    relay_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    metrics_token: SecretStr | None = None
    """Asked for by ``/metrics``, and by ``/readyz`` for its reasons; None: whoever reaches the port may read them."""
    outbox_on_parked: Literal["block", "skip"] = "block"
    outbox_retention: Retention = 7 * DAY_SECONDS
    """How long a settled row is kept."""

    @field_validator("kafka_config")
    @classmethod
    def _safe_config(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            given = json.loads(value.get_secret_value())
        except ValueError:
            given = None
        if not isinstance(given, dict) or any(isinstance(item, dict | list) for item in given.values()):
            raise ValueError('takes a JSON object of librdkafka settings, as {"linger.ms": 5}')
        refused = sorted(
            name
            for name in given
            if name in FORBIDDEN_KAFKA_CONFIG
            or name.startswith(FORBIDDEN_KAFKA_PREFIXES)
            or name.endswith(FORBIDDEN_KAFKA_SUFFIX)
        )
        if refused:
            raise ValueError(f"{', '.join(refused)} may not be set here: it would break the promise or has a variable")
        return value

    @field_validator("kafka_ssl_ca_location", "kafka_ssl_certificate_location", "kafka_ssl_key_location")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is None or value == "probe":  # librdkafka then looks where systems keep authorities
            return value
        try:
            if not Path(value).is_dir():  # of authorities
                Path(value).open("rb").close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no path"
            raise ValueError(f"takes a file that this user can read; {value}: {reason}") from None
        return value

    @field_validator(*LOGINS)
    @classmethod
    def _callable_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        several = value.split(",") if info.field_name == "schema_registry_url" else [value]
        return ",".join(http_url(url.strip(), LOGINS[info.field_name or ""]) for url in several)

    @field_validator("http_ca_location")
    @classmethod
    def _holds_certificates(cls, value: str | None) -> str | None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value) if value else None
        except OSError:
            raise ValueError("takes a file of PEM certificates that this process may read") from None
        return value

    @field_validator("inference_token")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        told = value.get_secret_value() if value else ""
        if not (told.isascii() and all("!" <= character <= "~" for character in told)):
            raise ValueError("takes printable ASCII without spaces, as a header holds it")
        return value

    @field_validator("cxone_enrich_url")
    @classmethod
    def _names_the_interaction(cls, value: str | None) -> str | None:
        if value and (value.count("{interactionId}") != 1 or "{interactionId}" not in urlsplit(value).path):
            raise ValueError("takes a URL with {interactionId} once, in its path")
        return value

    @field_validator("cxone_enrich_email_path", "cxone_enrich_agent_path")
    @classmethod
    def _pointers(cls, value: str) -> str:
        if not all(each.strip().startswith("/") for each in value.split(",")):
            raise ValueError("takes JSON Pointers, as /customer/email, separated by commas")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kafka_sasl_username is None) != (self.kafka_sasl_password is None):
            raise ValueError("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD: takes both or neither")
        self._insist_on_verified_brokers()
        if self.kafka_sasl_username and not self.kafka_security_protocol.startswith("SASL"):
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}: takes SASL_SSL with KAFKA_SASL_USERNAME"
            )
        if self.cxone_enrich_url:
            needed = ["cxone_oauth_url", "cxone_client_id", "cxone_client_secret"]
            if self.cxone_oauth_grant == "password":
                needed += ["cxone_access_key_id", "cxone_access_key_secret"]
            missing = [name.upper() for name in needed if getattr(self, name) is None]
            if missing:
                raise ValueError(f"CXONE_ENRICH_URL: takes {', '.join(missing)} as well")
        if self.kafka_topic == self.kafka_progress_topic:
            raise ValueError("KAFKA_PROGRESS_TOPIC: takes another topic than KAFKA_TOPIC")
        if self.kafka_progress_topic in self.kafka_replay_topics:
            raise ValueError("KAFKA_REPLAY_TOPICS: takes other topics than KAFKA_PROGRESS_TOPIC")
        return self

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.allow_plaintext_credentials and (sent := self.plaintext_credentials()):
            raise ValueError("\n".join(f"{line}, or set ALLOW_PLAINTEXT_CREDENTIALS=true" for line in sent))
        return self

    def plaintext_credentials(self) -> list[str]:
        """Logins that would travel unencrypted to another machine, a line for each variable that makes them."""
        config = kafka_client_config(self)
        registries = self.schema_registry_url.split(",") if self.schema_registry_username else []
        urls = [
            *(("SCHEMA_REGISTRY_URL", url.strip()) for url in registries),
            ("INFERENCE_URL", self.inference_token and self.inference_url),
            ("CXONE_OAUTH_URL", self.cxone_oauth_url),
            ("CXONE_ENRICH_URL", self.cxone_enrich_url),
            ("KAFKA_CONFIG", str(config.get("sasl.oauthbearer.token.endpoint.url") or "")),
        ]
        told = "a secret would be sent unencrypted to"
        sent = [
            f"{name}: {told} {host}: takes an https URL"
            for name, url in urls
            if url and (host := plain_host(url)) is not None
        ]
        if str(config["security.protocol"]).upper() == "SASL_PLAINTEXT":
            hosts = kafka_hosts(self.kafka_bootstrap_servers)
            sent += [f"KAFKA_SECURITY_PROTOCOL: {told} {host}: takes SASL_SSL" for host in hosts]
        return sent

    def _insist_on_verified_brokers(self) -> None:
        given = json.loads(self.kafka_config.get_secret_value()) if self.kafka_config else {}
        local = not kafka_hosts(self.kafka_bootstrap_servers)
        for name, values in UNVERIFIED_TLS.items():
            if name in given and str(given[name]).lower() in values and not local:
                raise ValueError(
                    f"KAFKA_CONFIG: {name}={given[name]} would let anybody pass for the broker: takes it on loopback "
                    "alone; set KAFKA_SSL_CA_LOCATION to the authority of the broker's certificate, and let that name "
                    "the host of KAFKA_BOOTSTRAP_SERVERS"
                )

    @property
    def kafka_topics(self) -> tuple[str, ...]:
        """Every topic that rows may go to, the usual one first, each once."""
        return tuple(dict.fromkeys((self.kafka_topic, *self.kafka_replay_topics)))


def plain_host(url: str) -> str | None:
    """The machine that a URL speaks to without TLS; None: it uses TLS, or speaks to this one."""
    parts = urlsplit(url)
    host = parts.hostname or "an unknown host"
    return None if parts.scheme == "https" or is_loopback(host) else host


def kafka_hosts(servers: str) -> list[str]:
    """Other machines among Kafka's bootstrap servers."""
    named = [server.strip() for server in servers.split(",") if server.strip()]
    hosts = [server.rpartition(":")[0].strip("[]") or server for server in named]
    return [host for host in hosts if not is_loopback(host)]


def kafka_client_config(settings: RelaySettings) -> dict[str, Any]:
    """Librdkafka settings of every client of the relay: how to reach and trust the brokers is the same for all."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        "client.id": "cxone-outbox-relay",
        "socket.keepalive.enable": True,
        # A broker that comes back is to be found within seconds, also after a long outage.
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 4,
    }
    if settings.kafka_sasl_username and settings.kafka_sasl_password:
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism or "SCRAM-SHA-512",
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    locations = {
        "ssl.ca.location": settings.kafka_ssl_ca_location,
        "ssl.certificate.location": settings.kafka_ssl_certificate_location,
        "ssl.key.location": settings.kafka_ssl_key_location,
    }
    config |= {name: path for name, path in locations.items() if path}
    # A broker creates a topic that a client asks about, with its own defaults, unless the client forbids it.
    config["allow.auto.create.topics"] = False
    return config | (json.loads(settings.kafka_config.get_secret_value()) if settings.kafka_config else {})


def kafka_producer_config(settings: RelaySettings) -> dict[str, Any]:
    """As ``kafka_client_config``, with what concerns producers."""
    return {
        "transaction.timeout.ms": 60_000,
        "message.timeout.ms": 60_000,
        "linger.ms": 5,
        **kafka_client_config(settings),
    }
