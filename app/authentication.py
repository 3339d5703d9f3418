"""Live webhook secrets, and whether a request shows one of them.

Several may be live at once: a CXone action cannot change its header without a new template, so old
and new secret overlap while one is rotated.
"""

import hmac
import re
from collections.abc import Mapping

from config.values import clean

MIN_SECRET_BYTES = 16
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def parse_secrets(value: str) -> dict[str, bytes]:
    """Secrets by label, from ``label=secret,label=secret`` or one bare secret (labelled ``default``).

    Raises:
        ValueError: says what is wrong and the cure, without the value.
    """
    if "=" not in value and "," not in value:
        return {"default": _checked("the secret", value)}
    secrets: dict[str, bytes] = {}
    for number, part in enumerate(value.split(","), 1):
        label, equals, secret = part.strip().partition("=")
        if not equals or not _LABEL.fullmatch(label):
            raise ValueError(
                f"part {number} is not label=secret; a bare secret may hold neither = nor , "
                "(write default=<secret>, and take one without a comma)"
            )
        if label in secrets:
            raise ValueError(f"part {number} repeats a label: takes different ones")
        secrets[label] = _checked(f"part {number}", secret)
    return secrets


def _checked(what: str, secret: str) -> bytes:
    try:
        encoded = clean(secret).encode() if secret else b""  # HTTP strips the header, too
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    if len(encoded) < MIN_SECRET_BYTES:
        raise ValueError(
            f"{what} has {len(encoded)} bytes: takes at least {MIN_SECRET_BYTES}; "
            "a bare secret that holds = or , is written default=<secret>"
        )
    return encoded


def matching_label(secrets: Mapping[str, bytes], shown: str | None) -> str | None:
    """Label of the live secret that a request shows, or None.

    Compares with every live secret in constant time, as bytes: a header may hold any byte.

    Args:
        secrets: label to live secret.
        shown: the header as WSGI gives it (latin-1), None if absent.
    """
    given = (shown or "").encode("latin-1", "replace")
    found = None
    for label, secret in secrets.items():
        if hmac.compare_digest(given, secret):
            found = label
    return found
