"""``DATABASE_URL``: brought into the one form that SQLAlchemy and psycopg take, or refused without being shown.

A password with an unencoded ``@``, ``#``, ``%`` or ``/`` moves the borders of the URL's parts: pieces of it
would be taken for a host or a database, and be shown in errors. So what is ambiguous is refused.
"""

import re
from urllib.parse import parse_qsl

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from config.values import is_port

DRIVER = "postgresql+psycopg"
POSTGRESQL = frozenset(["postgres", "postgresql", DRIVER])
TAKES = "takes sqlite:///file or postgresql://user:password@host/name"
ENCODE = (
    f"{TAKES}; in user name, password and parameters @ is written %40, # %23, % %25, / %2F and ? %3F "
    "(python3 -c 'import getpass, urllib.parse as u; print(u.quote(getpass.getpass(), safe=\"\"))' encodes one)"
)
HOSTS = f"{TAKES}; several servers are written host1:5432,host2:5432, with ports from 1 to 65535"
_BEHIND_AUTHORITY = re.compile(r"[/?#]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]*|%2[Ff][^:]*))(:(?P<port>.*))?")


def normalised(value: str) -> str:
    """The URL as the engine takes it.

    Raises:
        ValueError: says what it takes, and quotes nothing.
    """
    scheme, separator, rest = value.partition("://")
    if separator and scheme == "sqlite":
        return _sqlite(value)
    if not separator or scheme not in POSTGRESQL:
        raise ValueError(TAKES)
    return _postgresql(rest)


def _sqlite(value: str) -> str:
    url = _parsed(value)
    if url.host or url.username or url.port:
        raise ValueError("takes sqlite:///file with three slashes, or four before an absolute path")
    return url.render_as_string(hide_password=False)


def _postgresql(rest: str) -> str:
    authority = _BEHIND_AUTHORITY.split(rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    if authority.count("@") > 1 or "@" in tail or "#" in rest or _BAD_PERCENT.search(rest):
        raise ValueError(ENCODE)
    login, at, hosts = authority.rpartition("@")
    names, ports = _hosts(hosts)
    query = tail.partition("?")[2]
    if query and any("=" not in pair for pair in query.split("&")):
        raise ValueError(ENCODE)
    if len(names) == 1:
        return _parsed(f"{DRIVER}://{rest}").render_as_string(hide_password=False)
    if any(name in ("host", "port") for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise ValueError(f"{HOSTS}, or ?host=host1:5432&host=host2:5432, not both")
    url = _parsed(f"{DRIVER}://{login}{at}{tail}")
    return url.update_query_dict({"host": ",".join(names), "port": ",".join(ports)}).render_as_string(
        hide_password=False
    )


def _hosts(text: str) -> tuple[list[str], list[str]]:
    """Names and ports of the servers; an empty port is the usual one."""
    names, ports = [], []
    for part in text.split(","):
        found = _HOST.fullmatch(part)
        if not found or (found["port"] and not is_port(found["port"])) or ("," in text and not part):
            raise ValueError(HOSTS if "," in text else ENCODE)
        names.append(found["ipv6"] or found["name"])
        ports.append(found["port"] or "")
    return names, ports


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):  # the message would show a part of the URL
        raise ValueError(TAKES) from None
