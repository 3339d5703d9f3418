"""Settings from environment variables: typed, validated at start, and never printed with a secret in it.

A secret ``NAME`` can also be given as ``NAME_FILE``, the path of a file that contains it.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from sqlalchemy import make_url

from config.database_url import normalize_database_url
from config.setting_names import KNOWN_NAMES, SECRET_NAMES
from config.values import bind_host, clean

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
    "CONSOLE_",
)
"""A variable that starts with one of these and is no setting is reported as unknown."""
PLATFORM_NAMES = re.compile(
    r"WEB_MEMORY|KAFKA_(URL|PLUS_URL|PORT.*|PREFIX|TRUSTED_CERT|CLIENT_CERT|CLIENT_CERT_KEY)"
    r"|.*_SERVICE_(HOST|PORT.*)|.*_PORT_\d+_(TCP|UDP)(_(ADDR|PORT|PROTO))?"
)
"""Variables that platforms inject: container links, service discovery, add-ons."""
_SERVICE_LINK = re.compile(r"(tcp|udp)://")
"""The value of an injected ``<SERVICE>_PORT``, which by its name alone could be a misspelt setting."""
_LOGIN = re.compile(r"(?P<scheme>[a-z+]+://)?[^\s'\",]*@")
"""Everything up to the last ``@``: an unencoded password may contain any character of a URL."""
_QUERY = re.compile(r"(?P<url>[a-z+]+://[^\s'\",?]*\?)[^\s'\"]*")
"""The query of a URL, in which functions and gateways take API keys."""

MASK = "***"


class SettingsError(Exception):
    """One line for each wrong variable: its name, its value (secrets masked), and what is expected."""


@dataclass(frozen=True)
class ValueFormat:
    """What the value of a setting looks like, for error messages and docs/configuration.md.

    Attributes:
        expected: The format in words.
        multiline: Whether tabs and line breaks are allowed inside the value.
    """

    expected: str
    multiline: bool = False


class BaseSettings(BaseModel):
    """Settings of every process. A field is named as its environment variable, in lower case."""

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, validate_default=True, use_attribute_docstrings=True
    )

    allow_plaintext_credentials: bool = False
    """Allow passwords and tokens to be sent unencrypted to other machines. Without it, a login over plain HTTP,
    `SASL_PLAINTEXT` or to a PostgreSQL server without TLS is refused, unless the service is on this machine."""
    database_url: Annotated[SecretStr, ValueFormat("URL, see [DATABASE_URL](#database_url)")] = SecretStr(
        "sqlite:///outbox.db"
    )
    """The database that contains the outbox."""
    log_format: Literal["console", "json"] | None = None
    """Format of log lines. Unset: `console` on a terminal, otherwise `json`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged, in upper or lower case. `DEBUG` applies to the product's own lines only."""
    _secret_files: dict[str, str] = PrivateAttr(default_factory=dict)
    dyno: str | None = None
    """Set by Heroku, by similar platforms and by the Helm chart: processes share no disk, so SQLite is refused."""

    def current_secret(self, name: str) -> str | None:
        """The value of a secret as its file has it now, or as it was at the start while the file has no valid one."""
        path = self._secret_files.get(name)
        if path is not None:
            with suppress(SettingsError):
                return _clean(_read_file(f"{name.upper()}_FILE", path), path)
        value: SecretStr | None = getattr(self, name)
        return value.get_secret_value() if value else None

    @field_validator("log_format")
    @classmethod
    def _detect_terminal(cls, value: str | None) -> str:
        return value or ("console" if sys.stderr and sys.stderr.isatty() else "json")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _normalize_database_url(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        normalized = normalize_database_url(value.get_secret_value())
        url = make_url(normalized)
        sslmode_given = url.query.keys() & {"sslmode", "service"} or os.getenv("PGSSLMODE")
        if info.data.get("allow_plaintext_credentials") and url.get_backend_name() != "sqlite" and not sslmode_given:
            # Without sslmode the engine requires TLS to other machines.
            normalized = url.update_query_dict({"sslmode": "prefer"}).render_as_string(hide_password=False)
        return SecretStr(normalized)

    @model_validator(mode="after")
    def _require_shared_database(self) -> Self:
        if self.dyno and self.database_url.get_secret_value().startswith("sqlite"):
            raise ValueError("DATABASE_URL: SQLite cannot work, as processes share no disk; expected a postgres:// URL")
        return self


S = TypeVar("S", bound=BaseSettings)
PositiveInt = Annotated[int, Field(ge=1)]
Shards = Annotated[int, Field(ge=1, le=99)]
DEFAULT_SHARDS = 2
"""Number of shards of a new outbox."""
Port = Annotated[int, Field(ge=1, le=65535)]
BindHost = Annotated[str, AfterValidator(bind_host), ValueFormat("address or host name")]
"""An address or host name to listen on; ``config.values.join_host_port`` joins it with a port."""


def load(kind: type[S], environ: Mapping[str, str]) -> S:
    """Load the settings of one process.

    Raises:
        SettingsError: A value is missing or invalid.
    """
    values: dict[str, str] = {}
    errors: list[str] = []
    unreadable = set()
    for name, field in kind.model_fields.items():
        try:
            value = _read(name.upper(), field, environ)
        except SettingsError as error:
            errors.append(str(error))
            unreadable.add(name)
            continue
        if value is not None:
            values[name] = value
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        if unreadable:  # "not set" and rules across several settings would be misleading
            details = [detail for detail in details if detail["loc"] and detail["loc"][0] not in unreadable]
        errors += [_describe(kind, detail, values) for detail in details]
    if errors:
        raise SettingsError("\n".join(errors))
    settings._secret_files.update(  # noqa: SLF001 - of this module
        (name, path)
        for name, field in kind.model_fields.items()
        if is_secret(field) and (path := _file_of(name.upper(), environ))
    )
    return settings


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """A warning for each variable that looks like a setting, but is none."""
    warnings = []
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIXES) or _is_known(name) or _is_injected(name, value):
            continue
        nearest = difflib.get_close_matches(name, sorted(KNOWN_NAMES), n=1, cutoff=0)
        warnings.append(f"unknown setting {name}; did you mean {nearest[0]}?")
    return warnings


def _is_known(name: str) -> bool:
    return name in KNOWN_NAMES or (name.endswith("_FILE") and name.removesuffix("_FILE") in SECRET_NAMES)


def _is_injected(name: str, value: str) -> bool:
    return bool(PLATFORM_NAMES.fullmatch(name)) or (name.endswith("_PORT") and bool(_SERVICE_LINK.match(value)))


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret: its value is never shown, and it can be given as ``NAME_FILE``."""
    return SecretStr in _parts(field.annotation)


def value_format(field: FieldInfo) -> ValueFormat | None:
    """How a setting describes its value; None if its type says enough."""
    parts = (*field.metadata, *_parts(field.annotation))
    return next((part for part in parts if isinstance(part, ValueFormat)), None)


def _parts(annotation: object) -> Iterator[object]:
    """A type, and everything that it is made of: the members of a union, and the metadata of ``Annotated``."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _read(name: str, field: FieldInfo, environ: Mapping[str, str]) -> str | None:
    """The variable's value, cleaned. An empty variable counts as unset, as compose files and dashboards leave them."""
    value_is = value_format(field)
    multiline = value_is is not None and value_is.multiline
    value = environ.get(name) or None
    if not is_secret(field):
        return value and _clean(value, f"{name}={_mask(value)}", multiline=multiline)
    path = _file_of(name, environ)
    if path is None:
        return value and _clean(value, f"{name}={MASK}", multiline=multiline)
    if value is not None:
        raise SettingsError(f"{name} and {name}_FILE are both set: expected one of them")
    return _clean(_read_file(f"{name}_FILE", path), f"{name}_FILE={path}", multiline=multiline)


def _file_of(name: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(f"{name}_FILE") or None
    return path and _clean(path, f"{name}_FILE={path!r}")


def _read_file(name: str, path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        kind = type(error).__name__
        raise SettingsError(f"{name}={path} cannot be read ({kind}): expected a text file in UTF-8") from None
    if not text.strip():  # an empty secret would let everybody in
        raise SettingsError(f"{name}={path} is empty: expected a file that contains the secret")
    return text


def _clean(value: str, shown: str, *, multiline: bool = False) -> str:
    try:
        return clean(value, multiline=multiline)
    except ValueError as error:
        raise SettingsError(f"{shown}: {error}") from None


def _mask(value: object) -> str:
    """A value that is not a secret, without the login or query that a URL in it may have."""
    return _QUERY.sub(rf"\g<url>{MASK}", _LOGIN.sub(lambda found: f"{found['scheme'] or ''}{MASK}@", repr(value)))


def _describe(kind: type[BaseSettings], detail: ErrorDetails, values: Mapping[str, Any]) -> str:
    """One validation error as a line."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:  # a rule across several settings names them itself
        return message
    field_name = str(detail["loc"][0])
    name, field = field_name.upper(), kind.model_fields[field_name]
    if detail["type"] == "missing":
        value_is = value_format(field)
        return f"{name} is not set: expected {value_is.expected if value_is else 'a value'}"
    got = MASK if is_secret(field) else _mask(values.get(field_name))
    return f"{name}={got}: {message}"
