"""Settings from the environment: typed, checked at start, and never printed with a secret in it.

Every secret ``NAME`` can be given as ``NAME_FILE`` instead, the path of a file that holds it.
"""

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from sqlalchemy import make_url

from config.database_url import normalised
from config.values import clean, host_to_bind

KNOWN_NAMES = frozenset(
    [
        "ALLOW_PLAINTEXT_CREDENTIALS",
        "DATABASE_URL",
        "HTTP_CA_LOCATION",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "METRICS_TOKEN",
        "CXONE_WEBHOOK_SECRETS",
        "CXONE_WEBHOOK_SECRET",
        "WEBHOOK_MAX_BYTES",
        "WEBHOOK_RATE_LIMIT",
        "WEBHOOK_BACKLOG_LIMIT",
        "WEB_CONCURRENCY",
        "WEB_HOST",
        "WEB_KEEPALIVE_SECONDS",
        "WEB_THREADS",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_TOPIC",
        "KAFKA_PROGRESS_TOPIC",
        "KAFKA_TRANSACTIONAL_ID_PREFIX",
        "KAFKA_REPLAY_TOPICS",
        "KAFKA_SECURITY_PROTOCOL",
        "KAFKA_SASL_MECHANISM",
        "KAFKA_SASL_USERNAME",
        "KAFKA_SASL_PASSWORD",
        "KAFKA_SSL_CA_LOCATION",
        "KAFKA_SSL_CERTIFICATE_LOCATION",
        "KAFKA_SSL_KEY_LOCATION",
        "KAFKA_CONFIG",
        "SCHEMA_REGISTRY_URL",
        "SCHEMA_REGISTRY_USERNAME",
        "SCHEMA_REGISTRY_PASSWORD",
        "INFERENCE_URL",
        "INFERENCE_TOKEN",
        "INFERENCE_CONCURRENCY",
        "INFERENCE_MAX_ATTEMPTS",
        "INFERENCE_ALLOWED_HOSTS",
        "CXONE_OAUTH_URL",
        "CXONE_CLIENT_ID",
        "CXONE_CLIENT_SECRET",
        "CXONE_OAUTH_GRANT",
        "CXONE_ACCESS_KEY_ID",
        "CXONE_ACCESS_KEY_SECRET",
        "CXONE_OAUTH_SCOPE",
        "CXONE_ENRICH_URL",
        "CXONE_ENRICH_EMAIL_PATH",
        "CXONE_ENRICH_AGENT_PATH",
        "CXONE_ENRICH_RATE",
        "CXONE_ENRICH_CONCURRENCY",
        "CXONE_ENRICH_ON_OUTAGE",
        "RELAY_SHARDS",
        "RELAY_BATCH_SIZE",
        "RELAY_LEASE_SECONDS",
        "RELAY_METRICS_HOST",
        "RELAY_METRICS_PORT",
        "RELAY_ACTOR",
        "AUDIT_PSEUDONYM_KEY",
        "OUTBOX_RETENTION",
        "OUTBOX_ON_PARKED",
    ]
)
"""Every name of the product: a setting of another process is no typing error."""

SECRET_NAMES = frozenset(
    [
        "DATABASE_URL",
        "METRICS_TOKEN",
        "CXONE_WEBHOOK_SECRETS",
        "CXONE_WEBHOOK_SECRET",
        "KAFKA_SASL_PASSWORD",
        "KAFKA_CONFIG",
        "SCHEMA_REGISTRY_PASSWORD",
        "INFERENCE_TOKEN",
        "CXONE_CLIENT_SECRET",
        "CXONE_ACCESS_KEY_SECRET",
        "AUDIT_PSEUDONYM_KEY",
    ]
)
"""Those whose value is never shown, and that can be given as a file: NAME_FILE."""

PREFIXES = (
    "ALLOW_PLAINTEXT",
    "HTTP_CA",
    "CXONE_",
    "WEB_",
    "WEBHOOK_",
    "KAFKA_",
    "SCHEMA_REGISTRY_",
    "INFERENCE_",
    "RELAY_",
    "OUTBOX_",
    "METRICS_",
    "AUDIT_",
)
SEVERAL_LINES = frozenset(["KAFKA_CONFIG"])
"""Those whose value may be laid out in lines."""
PLATFORM_NAMES = re.compile(
    r"WEB_MEMORY|KAFKA_(URL|PLUS_URL|PORT.*|PREFIX|TRUSTED_CERT|CLIENT_CERT|CLIENT_CERT_KEY)"
    r"|.*_SERVICE_(HOST|PORT.*)|.*_PORT_\d+_(TCP|UDP)(_(ADDR|PORT|PROTO))?"
)
"""Names that platforms inject beside ours (container links, service discovery, add-ons)."""
_LINK = re.compile(r"(tcp|udp)://")
"""What a platform puts into ``<SERVICE>_PORT``: a name that might as well be a typing error of ours."""
_LOGIN = re.compile(r"(?P<scheme>[a-z+]+://)?[^\s'\",]*@")
"""What may be a login, wherever it ends: an unencoded password may hold any character of a URL."""
_QUERY = re.compile(r"(?P<url>[a-z+]+://[^\s'\",?]*\?)[^\s'\"]*")
"""Functions and gateways take keys in a URL's query."""

MASK = "***"


class SettingsError(Exception):
    """One line for each variable that is wrong: its name, what it got (secrets masked), what it takes."""


class BaseSettings(BaseModel):
    """Settings that every process has. Field names are the variables' names in lower case."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, validate_default=True)

    allow_plaintext_credentials: bool = False
    """Let logins travel unencrypted to other machines."""
    database_url: SecretStr = SecretStr("sqlite:///outbox.db")
    """Where the outbox is; ``postgres://`` and ``postgresql://`` both mean psycopg 3."""
    log_format: Literal["console", "json"] = Field(
        default_factory=lambda: "console" if sys.stderr and sys.stderr.isatty() else "json"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    dyno: str | None = None
    """Set by platforms whose processes share no disk; not a setting of ours."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr) -> SecretStr:
        return SecretStr(normalised(value.get_secret_value()))

    @model_validator(mode="after")
    def _shared_disk(self) -> Self:
        if self.dyno and self.database_url.get_secret_value().startswith("sqlite"):
            raise ValueError("DATABASE_URL: SQLite is a file, and dynos share no disk; takes a postgres:// URL here")
        return self

    @field_validator("database_url")
    @classmethod
    def _allowed_plaintext(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        url = make_url(value.get_secret_value())
        said = url.get_backend_name() == "sqlite" or url.query.keys() & {"sslmode", "service"} or os.getenv("PGSSLMODE")
        if said or not info.data.get("allow_plaintext_credentials"):  # the engine requires TLS of other machines
            return value
        return SecretStr(url.update_query_dict({"sslmode": "prefer"}).render_as_string(hide_password=False))


S = TypeVar("S", bound=BaseSettings)
PositiveInt = Annotated[int, Field(ge=1)]
Shards = Annotated[int, Field(ge=1, le=99)]
Port = Annotated[int, Field(ge=1, le=65535)]
HostToBind = Annotated[str, AfterValidator(host_to_bind)]
"""An address or host name to listen on; ``config.values.address`` joins it with a port."""


def load(kind: type[S], environ: Mapping[str, str]) -> S:
    """The settings of one process.

    Raises:
        SettingsError: a value is missing or wrong; nothing has been done yet.
    """
    values: dict[str, Any] = {}
    complaints, refused = [], set()
    for name, field in kind.model_fields.items():
        try:
            value = _given(name.upper(), environ, secret=_is_secret(field.annotation))
        except SettingsError as error:
            complaints.append(str(error))
            refused.add(name)
            continue
        if value is not None:
            values[name] = value
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        if refused:  # what is said of one that is missing, or of several together, would mislead
            details = [detail for detail in details if detail["loc"] and detail["loc"][0] not in refused]
        complaints += [_told(kind, detail, values) for detail in details]
    if complaints:
        raise SettingsError("\n".join(complaints))
    return settings


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """A warning for each variable that looks like one of ours and is none."""
    warnings = []
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIXES) or _is_known(name) or _is_injected(name, value):
            continue
        near = difflib.get_close_matches(name, sorted(KNOWN_NAMES), n=1, cutoff=0)
        warnings.append(f"{name} is set, but is no setting of this product: the nearest is {near[0]}")
    return warnings


def _is_known(name: str) -> bool:
    return name in KNOWN_NAMES or (name.endswith("_FILE") and name.removesuffix("_FILE") in SECRET_NAMES)


def _is_injected(name: str, value: str) -> bool:
    return bool(PLATFORM_NAMES.fullmatch(name)) or (name.endswith("_PORT") and bool(_LINK.match(value)))


def _given(name: str, environ: Mapping[str, str], *, secret: bool) -> str | None:
    """The variable's value; an empty one counts as not set, as compose files and dashboards leave them."""
    value, path = environ.get(name) or None, environ.get(f"{name}_FILE") or None
    if not secret or path is None:
        shown = f"{name}={MASK if secret else _masked(value)}"
        return None if value is None else _cleaned(name, value, shown)
    if value is not None:
        raise SettingsError(f"{name} and {name}_FILE are both set: takes one of them")
    path = _cleaned(f"{name}_FILE", path, f"{name}_FILE={path!r}")
    try:
        read = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SettingsError(
            f"{name}_FILE={path} cannot be read ({type(error).__name__}): takes a text file in UTF-8"
        ) from None
    if not read.strip():  # an empty secret would let everybody in
        raise SettingsError(f"{name}_FILE={path} is empty: takes a file that holds the secret")
    return _cleaned(name, read, f"{name}_FILE={path}")


def _cleaned(name: str, value: str, shown: str) -> str:
    try:
        return clean(value, several_lines=name in SEVERAL_LINES)
    except ValueError as error:
        raise SettingsError(f"{shown}: {error}") from None


def _masked(value: object) -> str:
    """A value that is no secret, without a login or a query that it may hold."""
    return _QUERY.sub(rf"\g<url>{MASK}", _LOGIN.sub(lambda found: f"{found['scheme'] or ''}{MASK}@", repr(value)))


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def _told(kind: type[BaseSettings], detail: ErrorDetails, values: Mapping[str, Any]) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:  # a rule over several variables names them itself
        return message
    field = str(detail["loc"][0])
    name = field.upper()
    if detail["type"] == "missing":
        takes = kind.model_fields[field].description or "a value"
        return f"{name} is not set: takes {takes}"
    secret = _is_secret(kind.model_fields[field].annotation)
    got = MASK if secret else _masked(values.get(field))
    return f"{name}={got}: {message}"
