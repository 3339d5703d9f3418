"""Reading a request body within bounds of size and time."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]


class BodyTooLargeError(Exception):
    """The body has more bytes than allowed, as declared or as counted."""


class BodyTooSlowError(Exception):
    """The body did not arrive in time, or not whole."""


class BodyMalformedError(Exception):
    """The chunks of the body are not what HTTP/1.1 has."""


def declared_length(environ: Mapping[str, Any]) -> int | None:
    """Bytes that the body has by its own account; None if it comes in chunks. The server has seen to the digits."""
    return int(environ["CONTENT_LENGTH"]) if "CONTENT_LENGTH" in environ else None


def arrived_at(environ: Mapping[str, Any]) -> float:
    """When the first byte of the request came, by ``time.monotonic``; now, where the server does not say."""
    found: float = getattr(environ.get("gunicorn.socket"), "arrived", None) or monotonic()
    return found


def read_body(environ: Mapping[str, Any], max_bytes: int) -> bytes:
    """The whole raw body, whatever its content type says; never parsed as a form.

    Raises:
        BodyTooLargeError, BodyTooSlowError, BodyMalformedError
    """
    # The server's own stream ends with the body, chunked or not; a byte more than allowed is enough to know.
    declared = declared_length(environ)
    wanted = max_bytes + 1 if declared is None else min(declared, max_bytes + 1)
    try:
        body: bytes = environ["wsgi.input"].read(wanted)
    except OSError:
        raise BodyTooSlowError from None
    except ParseException:  # its message quotes the body
        raise BodyMalformedError from None
    if len(body) > max_bytes:
        raise BodyTooLargeError
    if declared is not None and len(body) < declared:
        raise BodyTooSlowError
    return body
