"""Clean the values of environment variables, and validate the formats that several settings share.

No error message here quotes the value: it may be a secret, or contain one in the wrong place.
"""

import ipaddress
import re
import unicodedata
from urllib.parse import urlsplit

QUOTES = frozenset(['""', "''", "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"])
"""Pairs of opening and closing quotes, as env files keep them and word processors write them."""
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_SERVER = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*)(:(?P<port>[^:]*))?")
_TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")
MAX_PORT = 65_535


def clean(value: str, *, multiline: bool = False) -> str:
    """Strip a byte order mark and the white space around a value, as mounted files often have them.

    Args:
        value: The raw value.
        multiline: Allow tabs and line breaks inside the value.

    Raises:
        ValueError: The value is blank, quoted, or contains an invisible character.
    """
    text = value.removeprefix("\ufeff").strip(" \t\r\n")
    if not text:
        raise ValueError("blank value: set a value, or unset the variable")
    if len(text) > 1 and text[0] + text[-1] in QUOTES:
        raise ValueError("quotes around the value would be part of it: remove them")
    allowed = "\t\r\n" if multiline else ""
    for character in text:
        if not character.isprintable() and character not in allowed:
            raise ValueError(f"contains {_describe(character)}: remove it")
    return text


def _describe(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "bytes that are not UTF-8"
    if character in "\r\n":
        return "a line break"
    return f"an invisible character (U+{ord(character):04X} {unicodedata.name(character, 'control character')})"


def bind_host(value: str) -> str:
    """Validate an address or host name to listen on, and drop the brackets around an IPv6 address.

    Raises:
        ValueError: It is neither an IP address nor a host name.
    """
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if bare != value or not _is_host_name(bare):
            raise ValueError(
                "expected an address such as 127.0.0.1, 0.0.0.0 or ::, or a host name, without a port"
            ) from None
    return bare


def join_host_port(host: str, port: int) -> str:
    """Join to ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bootstrap_servers(value: str) -> str:
    """Validate ``host:port,host:port``, and drop spaces and empty parts.

    Raises:
        ValueError: A part has a scheme, a login or a path, or an invalid host or port.
    """
    expected = "expected host:port,host:port"
    if "://" in value:
        raise ValueError(f"{expected} without a scheme: set the protocol by KAFKA_SECURITY_PROTOCOL")
    if "@" in value:
        raise ValueError(f"{expected} without a login: use KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not parts or not all(map(_is_server, parts)):
        raise ValueError(f"{expected}, with ports from 1 to {MAX_PORT} and an IPv6 address in brackets")
    return ",".join(parts)


def _is_server(text: str) -> bool:
    found = _SERVER.fullmatch(text)
    if not found or not (found["port"] is None or is_port(found["port"])):
        return False
    host = found["host"]
    return _is_ipv6(host[1:-1]) if host.startswith("[") else _is_host_name(host)


def is_port(text: str) -> bool:
    """Whether the text is a port number from 1 to 65535."""
    return text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= MAX_PORT


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_host_name(text: str) -> bool:
    return bool(_HOST_NAME.fullmatch(text)) and len(text) <= 255


def http_url(value: str, login_settings: str) -> str:
    """Validate an http or https URL that has a host and no login.

    Args:
        value: The URL.
        login_settings: The settings to use instead of a login in the URL; the error message names them.

    Raises:
        ValueError: It is not such a URL.
    """
    if "@" in value.split("?", 1)[0]:
        raise ValueError(f"expected a URL without a login: use {login_settings} (write an @ in a path as %40)")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # its message may quote part of a login
        reason = "port out of range: " if "out of range" in str(error) else ""
        raise ValueError(f"{reason}expected a URL with a host, such as https://host:8443/path") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or not _is_text_without_spaces(value):
        raise ValueError("expected an http or https URL with a host, such as https://host/path")
    return value


def _is_text_without_spaces(value: str) -> bool:
    """``urlsplit`` drops line ends and tabs, and takes what no request can contain."""
    return value.isprintable() and " " not in value


def topic_name(value: str) -> str:
    """Validate the name of a Kafka topic.

    Raises:
        ValueError: Kafka does not allow this name.
    """
    if not _TOPIC.fullmatch(value):
        raise ValueError("expected a topic name: up to 249 letters, digits, dots, hyphens and underscores")
    return value
