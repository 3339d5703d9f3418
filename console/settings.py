"""Settings of the console."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from config.settings import BaseSettings, BindHost, Port, ValueFormat
from config.values import join_host_port
from console.access import Role

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


Roles = Annotated[Mapping[str, Role], BeforeValidator(_parse_roles), ValueFormat("`name=role,name=role`")]
Networks = Annotated[
    tuple[Network, ...],
    BeforeValidator(_parse_networks),
    ValueFormat("addresses or networks, separated by commas"),
]


class ConsoleSettings(BaseSettings):
    """Settings of the console."""

    console_auth: Annotated[Literal["file", "proxy"], ValueFormat("`file` or `proxy`")]
    """How users are known: by the passwords in `CONSOLE_USERS_FILE`, or by a proxy that has authenticated them."""
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

    @field_validator("console_auth", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value == "oidc":
            raise ValueError("OpenID Connect is not available: expected file, or proxy behind one that speaks it")
        return value

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
        }
        missing = [name.upper() for name in needed[self.console_auth] if not getattr(self, name)]
        if missing:
            raise ValueError(f"CONSOLE_AUTH={self.console_auth} also needs {', '.join(missing)}")
        if self.console_auth == "proxy" and self.console_proxy_user_header == self.console_proxy_secret_header:
            raise ValueError("CONSOLE_PROXY_USER_HEADER and CONSOLE_PROXY_SECRET_HEADER must differ")
        return self
