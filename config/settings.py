"""Settings from the environment: typed, checked at start, and never printed with a secret in it.

Every secret ``NAME`` can be given as ``NAME_FILE`` instead, the path of a file that holds it.
"""

import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

KNOWN_NAMES = frozenset(
    [
        "DATABASE_URL",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "METRICS_TOKEN",
        "CXONE_WEBHOOK_SECRETS",
        "CXONE_WEBHOOK_SECRET",
        "WEBHOOK_MAX_BYTES",
        "WEBHOOK_RATE_LIMIT",
        "WEBHOOK_BACKLOG_LIMIT",
        "WEB_KEEPALIVE_SECONDS",
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
        "INFERENCE_ALLOW_HOSTS",
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
        "CXONE_ENRICH_WHEN_DOWN",
        "RELAY_SHARDS",
        "RELAY_BATCH_SIZE",
        "RELAY_LEASE_SECONDS",
        "RELAY_METRICS_PORT",
        "RELAY_ACTOR",
        "OUTBOX_RETENTION",
        "OUTBOX_PARKED_POLICY",
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
    ]
)
"""Those whose value is never shown, and that can be given as a file: NAME_FILE."""

PREFIXES = ("CXONE_", "WEBHOOK_", "KAFKA_", "SCHEMA_REGISTRY_", "INFERENCE_", "RELAY_", "OUTBOX_", "METRICS_")
PLATFORM_NAMES = re.compile(
    r"KAFKA_(URL|PLUS_URL|PORT.*|PREFIX|TRUSTED_CERT|CLIENT_CERT|CLIENT_CERT_KEY)"
    r"|.*_SERVICE_(HOST|PORT.*)|.*_PORT_\d+_(TCP|UDP)(_(ADDR|PORT|PROTO))?"
)
"""Names that platforms inject beside ours (container links, service discovery, add-ons)."""
_LINK = re.compile(r"(tcp|udp)://")
"""What a platform puts into ``<SERVICE>_PORT``: a name that might as well be a typing error of ours."""
_LOGIN = re.compile(r"//[^/\s]*@")

MASK = "***"
_TAKES_DATABASE = "takes sqlite:///file or postgresql://user:password@host/name"


class SettingsError(Exception):
    """One line for each variable that is wrong: its name, what it got (secrets masked), what it takes."""


class BaseSettings(BaseModel):
    """Settings that every process has. Field names are the variables' names in lower case."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, validate_default=True)

    database_url: SecretStr = SecretStr("sqlite:///outbox.db")
    """Where the outbox is; ``postgres://`` and ``postgresql://`` both mean psycopg 3."""
    log_format: Literal["console", "json"] = Field(default_factory=lambda: "console" if sys.stderr.isatty() else "json")
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
        try:
            url = make_url(value.get_secret_value())
        except (ArgumentError, ValueError):  # the message would show a part of the URL
            raise ValueError(_TAKES_DATABASE) from None
        if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
            url = url.set(drivername="postgresql+psycopg")
        elif url.drivername != "sqlite":
            raise ValueError(_TAKES_DATABASE)
        return SecretStr(url.render_as_string(hide_password=False))

    @model_validator(mode="after")
    def _shared_disk(self) -> Self:
        if self.dyno and self.database_url.get_secret_value().startswith("sqlite"):
            raise ValueError("DATABASE_URL: SQLite is a file, and dynos share no disk; takes a postgres:// URL here")
        return self


S = TypeVar("S", bound=BaseSettings)
PositiveInt = Annotated[int, Field(ge=1)]
Shards = Annotated[int, Field(ge=1, le=99)]


def load(kind: type[S], environ: Mapping[str, str]) -> S:
    """The settings of one process.

    Raises:
        SettingsError: a value is missing or wrong; nothing has been done yet.
    """
    values: dict[str, Any] = {}
    complaints = []
    for name, field in kind.model_fields.items():
        try:
            value = _given(name.upper(), environ, secret=_is_secret(field.annotation))
        except SettingsError as error:
            complaints.append(str(error))
            continue
        if value is not None:
            values[name] = value
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        complaints += [_told(kind, detail, values) for detail in error.errors(include_url=False)]
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
        return value
    if value is not None:
        raise SettingsError(f"{name} and {name}_FILE are both set: takes one of them")
    try:
        read = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}_FILE={path} cannot be read ({type(error).__name__}): takes a text file") from None
    if not read:  # an empty secret would let everybody in
        raise SettingsError(f"{name}_FILE={path} is empty: takes a file that holds the secret")
    return read


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
    got = MASK if secret else _LOGIN.sub(f"//{MASK}@", repr(values.get(field)))
    return f"{name}={got}: {message}"
