"""Settings of the relay process and the Kafka client configuration that follows from them."""

import json
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

from config.settings import BaseSettings, BindHost, Shards, ValueFormat
from config.values import bootstrap_servers, http_url, topic_name
from outbox.db.tls import is_loopback
from outbox.operators.times import parse_age

FORBIDDEN_KAFKA_CONFIG = frozenset(
    {
        "acks", "allow.auto.create.topics", "request.required.acks", "auto.offset.reset", "bootstrap.servers",
        "metadata.broker.list", "delivery.report.only.error", "enable.auto.commit", "enable.auto.offset.store",
        "enable.gapless.guarantee", "enable.idempotence", "enable.partition.eof", "group.id", "group.instance.id",
        "isolation.level", "logger", "max.in.flight", "max.in.flight.requests.per.connection",
        "message.send.max.retries", "on_delivery", "partitioner", "plugin.library.paths", "retries",
        "sticky.partitioning.linger.ms", "transactional.id",
    }
)  # fmt: skip
"""librdkafka settings that would break exactly-once delivery, load code, run commands, or duplicate a variable."""
UNVERIFIED_TLS = {
    "enable.ssl.certificate.verification": ("false", "0", "f"),
    "ssl.endpoint.identification.algorithm": ("none",),
}
"""librdkafka settings, with the values that disable verification of the broker."""
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

DAY_SECONDS = 86_400.0
MIN_RETENTION_SECONDS = 60.0
"""Senders retry within seconds. A retry is recognized as a duplicate only while its row exists."""


def _retention(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() == "off":
        return None
    seconds = parse_age(value)
    if seconds is None or seconds < MIN_RETENTION_SECONDS:
        raise ValueError("expected an age of a minute or more, such as 7d, 12h or 90m, or off")
    return seconds


def _ca_file(value: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except OSError:
        raise ValueError("expected a file of PEM certificates that this user can read") from None
    return value


def _topics(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(topic_name(name.strip()) for name in value.split(","))
    except ValueError:
        raise ValueError("expected topic names, separated by commas") from None


Retention = Annotated[float | None, BeforeValidator(_retention), ValueFormat("age such as `7d` or `12h`, or `off`")]
"""In seconds; None disables pruning."""
Topic = Annotated[str, AfterValidator(topic_name), ValueFormat("topic name")]
Topics = Annotated[tuple[str, ...], BeforeValidator(_topics), ValueFormat("topic names, separated by commas")]
Url = Annotated[str, ValueFormat("http or https URL")]
JsonPointers = Annotated[str, ValueFormat("JSON Pointers, separated by commas")]
PemFile = Annotated[str, ValueFormat("path of a PEM file")]
CaFile = Annotated[PemFile, AfterValidator(_ca_file)]

LOGIN_SETTINGS = {
    "schema_registry_url": "SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD",
    "inference_url": "INFERENCE_TOKEN",
    "cxone_oauth_url": "CXONE_CLIENT_ID and CXONE_CLIENT_SECRET",
    "cxone_enrich_url": "CXONE_CLIENT_ID and CXONE_CLIENT_SECRET",
}
"""The settings for the login to each URL. In the URL itself, errors and logs would quote it."""


class RelaySettings(BaseSettings):
    """Settings of the relay process, and of commands that connect to Kafka."""

    kafka_bootstrap_servers: Annotated[str, AfterValidator(bootstrap_servers), ValueFormat("host:port,host:port")]
    """Brokers to connect to first."""
    kafka_topic: Topic = "cxone-interactions-ml"
    """Topic that interactions are published to."""
    kafka_progress_topic: Topic = "cxone-interactions-ml-progress"
    """Topic of the progress records, by which a relay finds out what is in Kafka."""
    kafka_transactional_id_prefix: str = "cxone-ml-producer-"
    """Prefix of the transactional ids; the shard's number follows."""
    kafka_replay_topics: Topics = ()
    """Further topics that `relay replay --topic` may name."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Protocol spoken to the brokers."""
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] | None = None
    """SASL mechanism. Unset: `SCRAM-SHA-512` if there is a user name."""
    kafka_sasl_username: str | None = None
    """SASL user name. Unset: no SASL login."""
    kafka_sasl_password: SecretStr | None = None
    """SASL password. A file is read again when the relay connects anew."""
    kafka_ssl_ca_location: Annotated[str, ValueFormat("path of a PEM file or directory, or `probe`")] | None = None
    """Certificate authorities trusted for the brokers. Unset: librdkafka's default."""
    kafka_ssl_certificate_location: PemFile | None = None
    """Client certificate for mutual TLS."""
    kafka_ssl_key_location: PemFile | None = None
    """Key of the client certificate."""
    kafka_config: Annotated[SecretStr, ValueFormat("JSON object", multiline=True)] | None = None
    """Further librdkafka settings for every Kafka client. Refused are settings that would break exactly-once delivery,
    run a command, or leave a broker on another host unverified."""
    http_ca_location: CaFile | None = None
    """Certificate authorities trusted for the registry, inference, OAuth, CXone and the console's OpenID provider, in
    addition to the public ones. Read at each new connection."""
    schema_registry_url: Annotated[str, ValueFormat("http or https URL, or several separated by commas")]
    """The Schema Registry."""
    schema_registry_username: str | None = None
    """User name for the Schema Registry."""
    schema_registry_password: SecretStr | None = None
    """Password for the Schema Registry."""
    inference_url: Url | None = None
    """Endpoint called once for each published interaction. Unset: no calls."""
    inference_token: SecretStr | None = None
    """Bearer token for the inference endpoint."""
    inference_concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """Calls made at the same time."""
    inference_max_attempts: Annotated[int, Field(ge=1, le=1000)] = 20
    """Attempts before a call is parked."""
    inference_allowed_hosts: Annotated[str, ValueFormat("host names, separated by commas")] | None = None
    """Hosts that may be called. Unset: the host of `INFERENCE_URL`."""
    cxone_oauth_url: Url | None = None
    """CXone's token endpoint, usually `https://cxone.niceincontact.com/auth/token`. Required with
    `CXONE_ENRICH_URL`."""
    cxone_client_id: str | None = None
    """OAuth client id. Required with `CXONE_ENRICH_URL`."""
    cxone_client_secret: SecretStr | None = None
    """OAuth client secret. Required with `CXONE_ENRICH_URL`."""
    cxone_oauth_grant: Literal["client_credentials", "password"] = "client_credentials"
    """OAuth grant. `password` requires the access key."""
    cxone_access_key_id: str | None = None
    """Access key id for the `password` grant."""
    cxone_access_key_secret: SecretStr | None = None
    """Access key secret for the `password` grant."""
    cxone_oauth_scope: str = "interaction:read"
    """OAuth scope."""
    cxone_enrich_url: Annotated[str, ValueFormat("http or https URL with `{interactionId}`")] | None = None
    """Resource of one interaction, read to fill in a missing e-mail address or agent id. Unset: no enrichment."""
    cxone_enrich_email_path: JsonPointers = "/customer/email,/fromAddress,/fromAddr"
    """Where the e-mail address may be in CXone's answer; the first pointer that finds a value wins."""
    cxone_enrich_agent_path: JsonPointers = "/agent/id,/agentId"
    """Where the agent id may be in CXone's answer."""
    cxone_enrich_rate: Annotated[float, Field(gt=0, le=33)] = 10
    """Requests a second. CXone's published limit for a tenant is 120,000 an hour, which is 33 a second."""
    cxone_enrich_concurrency: Annotated[int, Field(ge=1, le=32)] = 4
    """Requests made at the same time."""
    cxone_enrich_on_outage: Literal["wait", "send"] = "wait"
    """While CXone is unavailable, let rows wait, or publish them without enrichment."""
    relay_shards: Shards | None = None
    """Number of shards that the outbox must have. Unset: any. The first migration takes it from here, too."""
    relay_batch_size: Annotated[int, Field(ge=1, le=50_000)] = 5_000
    """Maximum number of rows in one Kafka transaction. On a slow connection to Kafka the relay uses fewer."""
    relay_lease_seconds: Annotated[float, Field(ge=3, le=600)] = 10  # outbox/sql/shards.py has the limit, too
    """How long a shard stays with a relay that no longer responds."""
    relay_metrics_host: BindHost = "127.0.0.1"
    """Address that metrics and health are served on; in a container `0.0.0.0` or `::`."""
    relay_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """Port that metrics and health are served on; 0 picks a free one."""
    metrics_token: SecretStr | None = None
    """Bearer token required for `/metrics`, and for the reasons on `/readyz`. Unset: anybody may read them."""
    outbox_on_parked: Literal["block", "skip"] = "block"
    """Whether a parked row blocks later rows of its interaction, or is skipped."""
    outbox_retention: Retention = Field("7d", validate_default=True)
    """How long a row is kept after it was published and its inference call is done, or after it was discarded."""

    @field_validator("kafka_config")
    @classmethod
    def _check_kafka_config(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            given = json.loads(value.get_secret_value())
        except ValueError:
            given = None
        if not isinstance(given, dict) or any(isinstance(item, dict | list) for item in given.values()):
            raise ValueError('expected a JSON object of librdkafka settings, such as {"linger.ms": 5}')
        refused = sorted(
            name
            for name in given
            if name in FORBIDDEN_KAFKA_CONFIG
            or name.startswith(FORBIDDEN_KAFKA_PREFIXES)
            or name.endswith(FORBIDDEN_KAFKA_SUFFIX)
        )
        if refused:
            raise ValueError(f"{', '.join(refused)} must not be set here: it is fixed, or has a setting of its own")
        return value

    @field_validator("kafka_ssl_ca_location", "kafka_ssl_certificate_location", "kafka_ssl_key_location")
    @classmethod
    def _check_readable(cls, value: str | None) -> str | None:
        if value is None or value == "probe":  # librdkafka then searches the usual places of the system
            return value
        try:
            if not Path(value).is_dir():  # of certificates
                Path(value).open("rb").close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            raise ValueError(f"expected a file that this user can read; {value}: {reason}") from None
        return value

    @field_validator(*LOGIN_SETTINGS)
    @classmethod
    def _check_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        urls = value.split(",") if info.field_name == "schema_registry_url" else [value]
        return ",".join(http_url(url.strip(), LOGIN_SETTINGS[info.field_name or ""]) for url in urls)

    @field_validator("inference_token")
    @classmethod
    def _check_header_value(cls, value: SecretStr | None) -> SecretStr | None:
        token = value.get_secret_value() if value else ""
        if not all("!" <= character <= "~" for character in token):
            raise ValueError("expected printable ASCII without spaces, as in an HTTP header")
        return value

    @field_validator("cxone_enrich_url")
    @classmethod
    def _check_placeholder(cls, value: str | None) -> str | None:
        if value and (value.count("{interactionId}") != 1 or "{interactionId}" not in urlsplit(value).path):
            raise ValueError("expected a URL with {interactionId} exactly once, in its path")
        return value

    @field_validator("cxone_enrich_email_path", "cxone_enrich_agent_path")
    @classmethod
    def _check_json_pointers(cls, value: str) -> str:
        if not all(each.strip().startswith("/") for each in value.split(",")):
            raise ValueError("expected JSON Pointers such as /customer/email, separated by commas")
        return value

    @model_validator(mode="after")
    def _check_sasl(self) -> Self:
        if (self.kafka_sasl_username is None) != (self.kafka_sasl_password is None):
            raise ValueError("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD: expected both or neither")
        if self.kafka_sasl_username and not self.kafka_security_protocol.startswith("SASL"):
            protocol = self.kafka_security_protocol
            raise ValueError(f"KAFKA_SECURITY_PROTOCOL={protocol}: expected SASL_SSL with KAFKA_SASL_USERNAME")
        return self

    @model_validator(mode="after")
    def _check_enrichment(self) -> Self:
        required = ["cxone_oauth_url", "cxone_client_id", "cxone_client_secret"]
        if self.cxone_oauth_grant == "password":
            required += ["cxone_access_key_id", "cxone_access_key_secret"]
        missing = [name.upper() for name in required if getattr(self, name) is None]
        if self.cxone_enrich_url and missing:
            raise ValueError(f"CXONE_ENRICH_URL: {', '.join(missing)} must be set as well")
        return self

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        if self.kafka_topic == self.kafka_progress_topic:
            raise ValueError("KAFKA_PROGRESS_TOPIC: must differ from KAFKA_TOPIC")
        if self.kafka_progress_topic in self.kafka_replay_topics:
            raise ValueError("KAFKA_REPLAY_TOPICS: must not contain KAFKA_PROGRESS_TOPIC")
        return self

    @model_validator(mode="after")
    def _require_verified_brokers(self) -> Self:
        config = json.loads(self.kafka_config.get_secret_value()) if self.kafka_config else {}
        if not remote_kafka_hosts(self.kafka_bootstrap_servers):
            return self
        for name, values in UNVERIFIED_TLS.items():
            if name in config and str(config[name]).lower() in values:
                raise ValueError(
                    f"KAFKA_CONFIG: {name}={config[name]} disables verification of the broker, which is allowed on "
                    "loopback only; set KAFKA_SSL_CA_LOCATION to the authority of the broker's certificate, and issue "
                    "that certificate for the host in KAFKA_BOOTSTRAP_SERVERS"
                )
        return self

    @model_validator(mode="after")
    def _require_encryption(self) -> Self:
        if not self.allow_plaintext_credentials and (exposed := self.plaintext_credentials()):
            raise ValueError(
                "\n".join(
                    f"{problem}: expected {remedy}, or set ALLOW_PLAINTEXT_CREDENTIALS=true"
                    for problem, remedy in exposed
                )
            )
        return self

    def plaintext_credentials(self) -> list[tuple[str, str]]:
        """Credentials that would be sent unencrypted to another machine: the problem, and what is expected instead."""
        config = kafka_client_config(self)
        registries = self.schema_registry_url.split(",") if self.schema_registry_username else []
        urls = [
            *(("SCHEMA_REGISTRY_URL", url.strip()) for url in registries),
            ("INFERENCE_URL", self.inference_token and self.inference_url),
            ("CXONE_OAUTH_URL", self.cxone_oauth_url),
            ("CXONE_ENRICH_URL", self.cxone_enrich_url),
            ("KAFKA_CONFIG", str(config.get("sasl.oauthbearer.token.endpoint.url") or "")),
        ]
        exposed = [
            (f"{name}: a secret would be sent unencrypted to {host}", "an https URL")
            for name, url in urls
            if url and (host := plaintext_host(url)) is not None
        ]
        if str(config["security.protocol"]).upper() == "SASL_PLAINTEXT":
            exposed += [
                (f"KAFKA_SECURITY_PROTOCOL: a secret would be sent unencrypted to {host}", "SASL_SSL")
                for host in remote_kafka_hosts(self.kafka_bootstrap_servers)
            ]
        return exposed

    @property
    def kafka_topics(self) -> tuple[str, ...]:
        """Every topic that rows may be published to, without repeats, ``kafka_topic`` first."""
        return tuple(dict.fromkeys((self.kafka_topic, *self.kafka_replay_topics)))


def plaintext_host(url: str) -> str | None:
    """The host of a URL that is neither https nor on this machine; otherwise None."""
    parts = urlsplit(url)
    host = parts.hostname or "an unknown host"
    return None if parts.scheme == "https" or is_loopback(host) else host


def remote_kafka_hosts(bootstrap_servers: str) -> list[str]:
    """The hosts among Kafka's bootstrap servers that are not this machine."""
    names = [server.strip() for server in bootstrap_servers.split(",") if server.strip()]
    hosts = [name.rpartition(":")[0].strip("[]") or name for name in names]
    return [host for host in hosts if not is_loopback(host)]


def kafka_client_config(settings: RelaySettings) -> dict[str, Any]:
    """Configuration of librdkafka that all clients of the relay share, with the password as its file has it now."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        "client.id": "cxone-outbox-relay",
        "socket.keepalive.enable": True,
        # Reconnect within seconds, even after a long outage.
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 4,
    }
    if settings.kafka_sasl_username and settings.kafka_sasl_password:
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism or "SCRAM-SHA-512",
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.current_secret("kafka_sasl_password"),
        }
    locations = {
        "ssl.ca.location": settings.kafka_ssl_ca_location,
        "ssl.certificate.location": settings.kafka_ssl_certificate_location,
        "ssl.key.location": settings.kafka_ssl_key_location,
    }
    config |= {name: path for name, path in locations.items() if path}
    # A broker creates a topic that a client asks about, with default settings, unless the client forbids it.
    config["allow.auto.create.topics"] = False
    return config | (json.loads(settings.kafka_config.get_secret_value()) if settings.kafka_config else {})


def kafka_producer_config(settings: RelaySettings) -> dict[str, Any]:
    """Configuration of librdkafka for producers."""
    return {
        "transaction.timeout.ms": 60_000,
        "message.timeout.ms": 60_000,
        "linger.ms": 5,
        **kafka_client_config(settings),
    }
