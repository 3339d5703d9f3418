"""Whether the connection to PostgreSQL crosses a network, and whether it is encrypted."""

import os
from ipaddress import ip_address

from sqlalchemy import URL


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its usual name or address; other spellings do not count."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def remote_hosts(url: URL) -> list[str]:
    """Return the other machines that a PostgreSQL URL names; none if it names a local socket."""
    given = [url.host or "", *_all(url, "host"), *_all(url, "hostaddr")]
    hosts = [host for part in given for host in part.split(",") if host]
    hosts = hosts or [os.environ.get("PGHOST", ""), os.environ.get("PGHOSTADDR", "")]
    names = [host.rpartition(":")[0].strip("[]") if host.count(":") == 1 or "]" in host else host for host in hosts]
    return [name for name in names if name and not name.startswith(("/", "@")) and not is_loopback(name)]


def sslmode(url: URL) -> str | None:
    """Return the configured ``sslmode`` of a PostgreSQL URL; None: the default."""
    return next(iter(_all(url, "sslmode")), os.environ.get("PGSSLMODE")) or None


def tls_arguments(url: URL) -> dict[str, str]:
    """Return ``sslmode=require`` for a PostgreSQL URL that names another machine and configures no TLS.

    libpq's default, ``prefer``, sends password and rows unencrypted to any server that claims to have no TLS.
    """
    return {"sslmode": "require"} if remote_hosts(url) and sslmode(url) is None and "service" not in url.query else {}


def _all(url: URL, name: str) -> tuple[str, ...]:
    given = url.query.get(name, ())
    return (given,) if isinstance(given, str) else tuple(given)
