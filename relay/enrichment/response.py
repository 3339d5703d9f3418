"""What an answer of CXone tells of an interaction: pure."""

from collections.abc import Mapping
from typing import Any

from outbox.models import EnrichedFields
from relay.enrichment.oauth import TokenError
from relay.errors import UnavailableError
from relay.http_client import HttpResult, Outcome, classify, json_of

NOTHING_KNOWN = EnrichedFields(None, None)
EMAIL_CHARACTERS, AGENT_CHARACTERS = 320, 256
TOO_MANY = 429


class LaterError(UnavailableError):
    """CXone may tell later: in so many seconds, or 0 if it does not say."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class ThrottledError(LaterError):
    """CXone works, and asks to be called less often."""


def fields_of(answer: HttpResult, email_paths: str, agent_paths: str) -> EnrichedFields:
    """What an answer tells of an interaction; 204, 404 and refusals of the very request tell nothing.

    A web page is no answer of CXone's: any server has one for a path that it does not know.

    Args:
        answer: of CXone, no 403.
        email_paths: JSON Pointers, separated by commas.
        agent_paths: likewise.

    Raises:
        UnavailableError: it may tell later.
    """
    if answer.status == 401:
        raise TokenError(
            "invalid_credentials",
            "CXone answers 401 to a fresh token: the credentials are invalid or expired: check CXONE_CLIENT_ID, and "
            "that CXONE_OAUTH_URL and CXONE_ENRICH_URL are of the same region",
        )
    meant = classify(answer)
    if meant is Outcome.LATER:
        seconds = answer.retry_after_seconds or 0.0
        if answer.status == TOO_MANY:
            raise ThrottledError(f"CXone asks to be called less often ({answer.error})", seconds)
        raise LaterError(f"CXone does not answer the request for an interaction ({answer.error})", seconds)
    if meant is Outcome.REFUSED or answer.status == 204:
        if 300 <= (answer.status or 0) < 400:
            raise UnavailableError(
                f"CXONE_ENRICH_URL answers {answer.status}, a redirect, which is not followed: name its target there"
            )
        if (answer.body or b"").lstrip().startswith(b"<"):
            raise UnavailableError(
                f"CXONE_ENRICH_URL answers {answer.status} with a web page, which says nothing of an interaction: "
                "check its host and path"
            )
        return NOTHING_KNOWN
    try:
        document = json_of(answer)
    except ValueError:
        raise UnavailableError("CXONE_ENRICH_URL answers something that is no JSON, or broke off") from None
    return EnrichedFields(
        _first(document, email_paths, EMAIL_CHARACTERS, "@"), _first(document, agent_paths, AGENT_CHARACTERS, "")
    )


def _first(document: Any, paths: str, most: int, holds: str) -> str | None:
    """The first value that a row can hold, at one of the pointers."""
    for path in paths.split(","):
        value = _at(document, path.strip())
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and 0 < len(value) <= most and holds in value and _storable(value):
            return value
    return None


def _at(document: Any, pointer: str) -> Any:
    """The value at a JSON Pointer (RFC 6901), or None."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = document.get(name)
        elif isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        else:
            return None
    return document


def _storable(value: str) -> bool:
    """Whether both databases and Avro can hold it: no NUL, no lone surrogate."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
