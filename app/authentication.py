"""Authenticate requests by one of the live webhook secrets.

Several secrets can be live at once. A CXone action cannot change its header without a new template, so the old and the
new secret overlap while one is rotated.
"""

import hmac
import re
from collections.abc import Mapping

from config.values import clean

MIN_SECRET_BYTES = 16
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def parse_secrets(value: str) -> dict[str, bytes]:
    """Parse ``label=secret,label=secret``, or one bare secret, whose label is then ``default``.

    Raises:
        ValueError: The message says what is wrong and what to do, and does not quote the value.
    """
    if "=" not in value and "," not in value:
        return {"default": _parse_secret("the secret", value)}
    secrets: dict[str, bytes] = {}
    for number, part in enumerate(value.split(","), 1):
        label, equals, secret = part.strip().partition("=")
        if not equals or not _LABEL.fullmatch(label):
            raise ValueError(
                f"part {number} is not label=secret; a bare secret must not contain = or , "
                "(write default=<secret>, and choose one without a comma)"
            )
        if label in secrets:
            raise ValueError(f"part {number} repeats a label: expected different ones")
        secrets[label] = _parse_secret(f"part {number}", secret)
    return secrets


def _parse_secret(name: str, secret: str) -> bytes:
    try:
        encoded = clean(secret).encode() if secret else b""  # HTTP strips the header as well
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if len(encoded) < MIN_SECRET_BYTES:
        raise ValueError(
            f"{name} has {len(encoded)} bytes: expected at least {MIN_SECRET_BYTES}; "
            "write a bare secret that contains = as default=<secret>"
        )
    return encoded


def matching_label(secrets: Mapping[str, bytes], header: str | None) -> str | None:
    """The label of the live secret in a request's header, or None.

    Compares bytes with every live secret in constant time.

    Args:
        secrets: Live secrets by label.
        header: The header as WSGI passes it (latin-1), None if absent.
    """
    given = (header or "").encode("latin-1", "replace")
    found = None
    for label, secret in secrets.items():
        if hmac.compare_digest(given, secret):
            found = label
    return found
