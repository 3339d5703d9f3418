"""Whether a row is about an email address, however its body spells it.

SQL preselects the rows that may contain the address: JSON can write any character as an escape, and databases do not
know the case of letters beyond ASCII. Each preselected row is then checked here.
"""

import json
import unicodedata


def contains(email: str, customer_email: str | None, payload: bytes) -> bool:
    """Return whether a row is about this address, whatever case, escapes and compatible characters it uses."""
    return fold(customer_email or "") == fold(email) or _as_in_json(email) in fold(_unescape(payload))


def fold(text: str) -> str:
    """Return text without differences of case and of compatible characters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _unescape(payload: bytes) -> str:
    text = payload.decode("utf-8-sig", "replace")
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):  # erased, or not stored by this product
        return text


def _as_in_json(email: str) -> str:
    """Return the address as it appears in a JSON string with no more escapes than necessary."""
    return fold(json.dumps(email, ensure_ascii=False)[1:-1])
