"""Values as an environment holds them: cleaned in one place, and the forms that several settings share.

No message here quotes the value: it may be a secret, or hold one in the wrong place.
"""

import ipaddress
import re
import unicodedata
from urllib.parse import urlsplit

QUOTES = frozenset(['""', "''", "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"])
"""Opening and closing: what env files and shells keep, and what word processors make of it."""
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_SERVER = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*)(:(?P<port>[^:]*))?")
_TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")
LARGEST_PORT = 65_535


def clean(value: str, *, several_lines: bool = False) -> str:
    """The value without a byte order mark and without white space around it, as a mounted file may have them.

    Args:
        value: as given.
        several_lines: whether tabs and line breaks may stand inside.

    Raises:
        ValueError: nothing is left, quotes surround it, or a character in it cannot be seen.
    """
    text = value.removeprefix("\ufeff").strip(" \t\r\n")
    if not text:
        raise ValueError("holds nothing but white space: set a value, or unset it")
    if len(text) > 1 and text[0] + text[-1] in QUOTES:
        raise ValueError("is surrounded by quotes, which would be part of the value: remove them")
    allowed = "\t\r\n" if several_lines else ""
    for character in text:
        if not character.isprintable() and character not in allowed:
            raise ValueError(f"holds {_named(character)}: remove it")
    return text


def _named(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "bytes that are not UTF-8"
    if character in "\r\n":
        return "a line break"
    return (
        f"a character that cannot be seen (U+{ord(character):04X} {unicodedata.name(character, 'control character')})"
    )


def host_to_bind(value: str) -> str:
    """An address or host name to listen on, without the brackets that an IPv6 address may have.

    Raises:
        ValueError: it is neither.
    """
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if bare != value or not _is_host_name(bare):
            raise ValueError(
                "takes an address, as 127.0.0.1, 0.0.0.0 or ::, or a host name; the port has a variable of its own"
            ) from None
    return bare


def address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def servers(value: str) -> str:
    """``host:port,host:port`` without spaces and empty parts.

    Raises:
        ValueError: a part has a scheme, a login or a path, or a host or port that cannot be.
    """
    takes = "takes host:port,host:port"
    if "://" in value:
        raise ValueError(f"{takes} without a scheme: KAFKA_SECURITY_PROTOCOL says how to speak")
    if "@" in value:
        raise ValueError(f"{takes} without a login: use KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not parts or not all(map(_is_server, parts)):
        raise ValueError(f"{takes}, with ports from 1 to {LARGEST_PORT} and an IPv6 address in brackets")
    return ",".join(parts)


def _is_server(text: str) -> bool:
    found = _SERVER.fullmatch(text)
    if not found or not (found["port"] is None or is_port(found["port"])):
        return False
    host = found["host"]
    return _is_ipv6(host[1:-1]) if host.startswith("[") else _is_host_name(host)


def is_port(text: str) -> bool:
    """Whether the text is a port that can be connected to."""
    return text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= LARGEST_PORT


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_host_name(text: str) -> bool:
    return bool(_HOST_NAME.fullmatch(text)) and len(text) <= 255


def http_url(value: str, instead_of_login: str) -> str:
    """A URL of http or https with a host, and without a login.

    Args:
        value: as given.
        instead_of_login: the variables that a login belongs in.

    Raises:
        ValueError: it is none.
    """
    place = value.split("?", 1)[0]
    if "@" in place:
        raise ValueError(f"takes a URL without a login: use {instead_of_login} (an @ in a path is written %40)")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # its message may quote a part of a login
        wrong = "Port out of range" if "out of range" in str(error) else "takes a URL with a host"
        raise ValueError(f"{wrong}: as https://host/path or https://host:8443/path") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or " " in value:
        raise ValueError("takes a URL with a host, as https://host/path")
    return value


def topic(value: str) -> str:
    """The name of a Kafka topic.

    Raises:
        ValueError: it is none.
    """
    if not _TOPIC.fullmatch(value):
        raise ValueError("takes a topic's name: up to 249 letters, digits, dots, hyphens and underscores")
    return value
