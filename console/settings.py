"""Settings of the console."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator

from config.settings import BaseSettings, BindHost, Port, ValueFormat
from config.values import http_url, join_host_port
from console.access import Role
from relay.settings import CaFile, plaintext_host

MIN_KEY_BYTES = 32
MIN_PROXY_SECRET_BYTES = 16
_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _parse_roles(value: object) -> object:
    """Turn ``name=role,name=role`` into a mapping."""
    if not isinstance(value, str):
        return value
    roles: dict[str, Role] = {}
    for part in filter(None, map(str.strip, value.split(","))):
        name, _, role = map(str.strip, part.rpartition("="))
        if not name or name in roles:
            raise ValueError("expected name=role,name=role, each name once")
        roles[name] = Role.parse(role)
    return roles


def _parse_networks(value: object) -> object:
    """Turn addresses and networks, separated by commas, into networks."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(ipaddress.ip_network(part) for part in filter(None, map(str.strip, value.split(","))))
    except ValueError:
        raise ValueError("expected addresses or networks such as 10.0.0.7,10.1.0.0/16") from None


def protected_url(value: str) -> str:
    """Validate an https URL; within this machine, http will do.

    Raises:
        ValueError: it is none, or has a login.
    """
    url = http_url(value, "CONSOLE_OIDC_CLIENT_ID and CONSOLE_OIDC_CLIENT_SECRET")
    if plaintext_host(url) is not None:
        raise ValueError("expected an https URL; http is for this machine only")
    return url


def _issuer(value: str) -> str:
    if "?" in value or "#" in value:
        raise ValueError("expected the issuer as the provider spells it, without a query or fragment")
    return protected_url(value)


def _public_url(value: str) -> str:
    parts = urlsplit(protected_url(value))
    if f"{parts.scheme}://{parts.netloc}" != value.removesuffix("/"):
        raise ValueError("expected scheme and host such as https://console.example.com; a path is in CONSOLE_PREFIX")
    return value.removesuffix("/")


def _scope(value: str) -> str:
    if "openid" not in value.split(" "):
        raise ValueError("expected scopes separated by spaces, openid among them")
    return value


Roles = Annotated[Mapping[str, Role], BeforeValidator(_parse_roles), ValueFormat("`name=role,name=role`")]
Networks = Annotated[
    tuple[Network, ...],
    BeforeValidator(_parse_networks),
    ValueFormat("addresses or networks, separated by commas"),
]
Issuer = Annotated[str, AfterValidator(_issuer), ValueFormat("https URL")]
PublicUrl = Annotated[str, AfterValidator(_public_url), ValueFormat("https URL without a path")]
Scope = Annotated[str, AfterValidator(_scope), ValueFormat("scopes, separated by spaces")]


class ConsoleSettings(BaseSettings):
    """Settings of the console."""

    console_auth: Annotated[Literal["file", "proxy", "oidc"], ValueFormat("`file`, `proxy` or `oidc`")]
    """How users are known: by the passwords in `CONSOLE_USERS_FILE`, by a proxy that has authenticated them, or by an
    OpenID provider that signs them in."""
    console_secret_key: Annotated[SecretStr, ValueFormat("32 bytes or more; generate it with `openssl rand -hex 32`")]
    """Key that signs sessions. A new key ends all of them."""
    console_users_file: Annotated[Path, ValueFormat("path of a file")] | None = None
    """Users of `CONSOLE_AUTH=file`: lines that `relay console-password` prints. Read at each request."""
    console_proxy_user_header: Annotated[str, ValueFormat("name of a header")] | None = None
    """Header in which the proxy names the user. Required with `CONSOLE_AUTH=proxy`, as the three that follow."""
    console_proxy_roles: Roles | None = None
    """Roles of the proxy's users: `viewer`, `operator` or `custodian`. Anybody else is refused."""
    console_proxy_secret: Annotated[SecretStr, ValueFormat("16 bytes or more")] | None = None
    """Secret that the proxy sends with each request, in `CONSOLE_PROXY_SECRET_HEADER`."""
    console_proxy_peers: Networks = ()
    """Addresses from which the proxy connects. With `CONSOLE_AUTH=file`, `X-Forwarded-For` is believed from them."""
    console_proxy_secret_header: Annotated[str, ValueFormat("name of a header")] = "X-Console-Proxy-Secret"  # noqa: S105 - a name
    """Header of `CONSOLE_PROXY_SECRET`."""
    console_oidc_issuer: Issuer | None = None
    """The OpenID provider, exactly as it spells itself. Required with `CONSOLE_AUTH=oidc`, as the four that follow."""
    console_oidc_client_id: str | None = None
    """The console's client id at the provider."""
    console_oidc_client_secret: SecretStr | None = None
    """The console's client secret at the provider."""
    console_oidc_roles: Roles | None = None
    """Roles by subject, or with `CONSOLE_OIDC_GROUPS_CLAIM` by group; of several groups the highest role counts.
    Anybody else is refused."""
    console_public_url: PublicUrl | None = None
    """Where browsers reach the console. The provider leads back to `/login/callback` there, below `CONSOLE_PREFIX`."""
    console_oidc_groups_claim: str | None = None
    """Claim of the ID token that lists a user's groups. Unset: `CONSOLE_OIDC_ROLES` names subjects."""
    console_oidc_scope: Scope = "openid profile"
    """What is asked for. Some providers list groups only with one more scope, often `groups`."""
    http_ca_location: CaFile | None = None
    console_host: BindHost = "127.0.0.1"
    """Address to listen on. Unless it is of this machine only, browsers must come by HTTPS."""
    console_port: Port = 8080
    """Port to listen on."""
    console_threads: Annotated[int, Field(ge=1, le=64)] = 8
    """Requests handled at the same time."""
    console_prefix: Annotated[str, ValueFormat("path such as `/console`")] | None = None
    """Path below which a proxy serves the console. Unset: it has a host name of its own."""
    metrics_token: SecretStr | None = None
    """Bearer token required for `/metrics`. Unset: anybody may read them."""

    @property
    def bind(self) -> str:
        """Address and port to listen on, in gunicorn's format."""
        return join_host_port(self.console_host, self.console_port)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect, so that browsers may come without HTTPS."""
        try:
            return ipaddress.ip_address(self.console_host).is_loopback
        except ValueError:
            return self.console_host == "localhost"

    @field_validator("console_secret_key")
    @classmethod
    def _long_key(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value().encode()) < MIN_KEY_BYTES:
            raise ValueError(f"expected {MIN_KEY_BYTES} bytes or more; generate it with openssl rand -hex 32")
        return value

    @field_validator("console_proxy_secret")
    @classmethod
    def _long_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < MIN_PROXY_SECRET_BYTES:
            raise ValueError(f"expected {MIN_PROXY_SECRET_BYTES} bytes or more; generate it with openssl rand -hex 32")
        return value

    @field_validator("console_prefix")
    @classmethod
    def _is_path(cls, value: str | None) -> str | None:
        if value is not None and not _PREFIX.fullmatch(value):
            raise ValueError("expected a path such as /console, without a slash at its end")
        return value

    @field_validator("console_proxy_user_header", "console_proxy_secret_header")
    @classmethod
    def _is_header(cls, value: str | None) -> str | None:
        if value is not None and not _HEADER.fullmatch(value):
            raise ValueError("expected the name of a header: letters, digits and hyphens")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {
            "file": ("console_users_file",),
            "proxy": (
                "console_proxy_user_header",
                "console_proxy_roles",
                "console_proxy_secret",
                "console_proxy_peers",
            ),
            "oidc": (
                "console_oidc_issuer",
                "console_oidc_client_id",
                "console_oidc_client_secret",
                "console_oidc_roles",
                "console_public_url",
            ),
        }
        missing = [name.upper() for name in needed[self.console_auth] if not getattr(self, name)]
        if missing:
            raise ValueError(f"CONSOLE_AUTH={self.console_auth} also needs {', '.join(missing)}")
        if self.console_auth == "proxy" and self.console_proxy_user_header == self.console_proxy_secret_header:
            raise ValueError("CONSOLE_PROXY_USER_HEADER and CONSOLE_PROXY_SECRET_HEADER must differ")
        return self
