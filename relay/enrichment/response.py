"""Reads what CXone knows of an interaction from its response: pure functions."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from outbox.models import EnrichedFields
from relay.enrichment.oauth import TokenError, missing_scope
from relay.errors import UnavailableError
from relay.http_client import HttpResult, Outcome, classify, parse_json
from relay.settings import RelaySettings

NOTHING_KNOWN = EnrichedFields(None, None)
MAX_EMAIL_CHARACTERS, MAX_AGENT_CHARACTERS = 320, 256


class RetryLaterError(UnavailableError):
    """CXone may answer later.

    Attributes:
        retry_after_seconds: its ``Retry-After``; 0 without one.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ThrottledError(RetryLaterError):
    """CXone works, but limits the rate of requests."""


def read_fields(result: HttpResult, settings: RelaySettings) -> EnrichedFields:
    """Read the fields of an interaction; after 204, 404 or another rejection of this very request none is known.

    Raises:
        UnavailableError: CXone may answer later, or once settings or permissions are corrected.
    """
    _raise_if_denied(result, settings)
    _raise_if_temporary(result)
    if classify(result) is Outcome.REJECTED or result.status == HTTPStatus.NO_CONTENT:
        _raise_if_not_cxone(result)
        return NOTHING_KNOWN
    try:
        document = parse_json(result)
    except ValueError:
        raise UnavailableError("CXONE_ENRICH_URL returned a response that is incomplete or not JSON") from None
    return EnrichedFields(
        customer_email=_first_valid(document, settings.cxone_enrich_email_path, MAX_EMAIL_CHARACTERS, "@"),
        agent_id=_first_valid(document, settings.cxone_enrich_agent_path, MAX_AGENT_CHARACTERS, ""),
    )


def _raise_if_denied(result: HttpResult, settings: RelaySettings) -> None:
    if result.status == HTTPStatus.UNAUTHORIZED:
        raise TokenError(
            "invalid_credentials",
            "CXone rejected a new token (401): the credentials are invalid or expired; check CXONE_CLIENT_ID, and "
            "that CXONE_OAUTH_URL and CXONE_ENRICH_URL are of the same region",
        )
    if result.status == HTTPStatus.FORBIDDEN:
        raise missing_scope(settings)


def _raise_if_temporary(result: HttpResult) -> None:
    if classify(result) is not Outcome.RETRY:
        return
    retry_after = result.retry_after_seconds or 0.0
    if result.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise ThrottledError(f"CXone limits the rate of requests ({result.error})", retry_after)
    raise RetryLaterError(f"the request to CXone failed ({result.error})", retry_after)


def _raise_if_not_cxone(result: HttpResult) -> None:
    """Refuse redirects, and web pages, which any server returns for a path that it does not know."""
    if 300 <= (result.status or 0) < 400:
        raise UnavailableError(
            f"CXONE_ENRICH_URL returned a redirect ({result.status}), which is not followed: set it to the target"
        )
    if (result.body or b"").lstrip().startswith(b"<"):
        raise UnavailableError(
            f"CXONE_ENRICH_URL returned a web page ({result.status}) rather than an interaction: "
            "check its host and path"
        )


def _first_valid(document: Any, pointers: str, max_characters: int, required: str) -> str | None:
    """The first value that is a text of valid length and contains ``required``.

    Args:
        document: decoded JSON.
        pointers: JSON Pointers, separated by commas.
        max_characters: that the outbox stores.
        required: text that the value has to contain.
    """
    for pointer in pointers.split(","):
        value = _resolve(document, pointer.strip())
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and 0 < len(value) <= max_characters and required in value and _is_storable(value):
            return value
    return None


def _resolve(document: Any, pointer: str) -> Any:
    """The value at a JSON Pointer (RFC 6901); None if there is none."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = document.get(name)
        elif isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        else:
            return None
    return document


def _is_storable(value: str) -> bool:
    """Whether both databases and Avro can store the text: no NUL, no lone surrogate."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
