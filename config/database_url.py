"""Validate ``DATABASE_URL`` and bring it into the form that SQLAlchemy and psycopg accept.

An unencoded ``@``, ``#``, ``%`` or ``/`` in a password shifts the parts of the URL: a piece of the password would be
parsed as host or database name, and appear in error messages. So ambiguous URLs are refused, and never quoted.
"""

import re
from urllib.parse import parse_qsl

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from config.values import is_port

DRIVER = "postgresql+psycopg"
POSTGRESQL_SCHEMES = frozenset(["postgres", "postgresql", DRIVER])
EXPECTED = "expected sqlite:///file or postgresql://user:password@host/name"
EXPECTED_ENCODED = (
    f"{EXPECTED}; in the user name, password and parameters write @ as %40, # as %23, % as %25, / as %2F, ? as %3F "
    "(to encode one: python3 -c 'import getpass, urllib.parse as u; print(u.quote(getpass.getpass(), safe=\"\"))')"
)
EXPECTED_HOSTS = f"{EXPECTED}; write several servers as host1:5432,host2:5432, with ports from 1 to 65535"
_AUTHORITY_END = re.compile(r"[/?#]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]*|%2[Ff][^:]*))(:(?P<port>.*))?")


def normalize_database_url(value: str) -> str:
    """The URL in the form that the database engine accepts.

    Raises:
        ValueError: The message says what is expected, and does not quote the URL.
    """
    scheme, separator, rest = value.partition("://")
    if separator and scheme == "sqlite":
        return _sqlite(value)
    if not separator or scheme not in POSTGRESQL_SCHEMES:
        raise ValueError(EXPECTED)
    return _postgresql(rest)


def _sqlite(value: str) -> str:
    url = _parse(value)
    if url.host or url.username or url.port:
        raise ValueError("expected sqlite:///file with three slashes, or four before an absolute path")
    return url.render_as_string(hide_password=False)


def _postgresql(rest: str) -> str:
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    if authority.count("@") > 1 or "@" in tail or "#" in rest or _BAD_PERCENT.search(rest):
        raise ValueError(EXPECTED_ENCODED)
    login, at, hosts = authority.rpartition("@")
    names, ports = _hosts(hosts)
    query = tail.partition("?")[2]
    if query and any("=" not in pair for pair in query.split("&")):
        raise ValueError(EXPECTED_ENCODED)
    if len(names) == 1:
        return _parse(f"{DRIVER}://{rest}").render_as_string(hide_password=False)
    if any(name in ("host", "port") for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise ValueError(f"{EXPECTED_HOSTS}, or ?host=host1:5432&host=host2:5432, not both")
    url = _parse(f"{DRIVER}://{login}{at}{tail}")
    return url.update_query_dict({"host": ",".join(names), "port": ",".join(ports)}).render_as_string(
        hide_password=False
    )


def _hosts(text: str) -> tuple[list[str], list[str]]:
    """Host names and ports of the servers; an empty port means the default one."""
    names, ports = [], []
    for part in text.split(","):
        found = _HOST.fullmatch(part)
        if not found or (found["port"] and not is_port(found["port"])) or ("," in text and not part):
            raise ValueError(EXPECTED_HOSTS if "," in text else EXPECTED_ENCODED)
        names.append(found["ipv6"] or found["name"])
        ports.append(found["port"] or "")
    return names, ports


def _parse(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):  # its message would quote part of the URL
        raise ValueError(EXPECTED) from None
