"""Read a request body, limited in size and time."""

from collections.abc import Mapping
from typing import Any

from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]

from app.group_commit import Arrival


class BodyTooLargeError(Exception):
    """The body is larger than allowed."""


class BodyTooSlowError(Exception):
    """The body did not arrive completely in time."""


class BodyMalformedError(Exception):
    """The chunked encoding of the body is not valid HTTP/1.1."""


def declared_length(environ: Mapping[str, Any]) -> int | None:
    """The Content-Length, which the server has validated; None for a chunked body."""
    return int(environ["CONTENT_LENGTH"]) if "CONTENT_LENGTH" in environ else None


def arrival_of(environ: Mapping[str, Any]) -> Arrival | None:
    """When the request arrived; None if the server is not ours."""
    arrival: Arrival | None = getattr(environ.get("gunicorn.socket"), "arrival", None)
    return arrival


def arrived_at(environ: Mapping[str, Any]) -> float | None:
    """When the request's first byte arrived, by ``time.monotonic``; None if the server is not ours."""
    arrived: float | None = getattr(environ.get("gunicorn.socket"), "arrived", None)
    return arrived


def read_body(environ: Mapping[str, Any], max_bytes: int) -> bytes:
    """Read the raw body, whatever its content type; it is never parsed as a form.

    Raises:
        BodyTooLargeError, BodyTooSlowError, BodyMalformedError
    """
    # The server's stream ends with the body, chunked or not; one byte more than allowed is enough to know.
    declared = declared_length(environ)
    size = max_bytes + 1 if declared is None else min(declared, max_bytes + 1)
    try:
        body: bytes = environ["wsgi.input"].read(size)
    except OSError:
        raise BodyTooSlowError from None
    except ParseException:  # its message quotes the body
        raise BodyMalformedError from None
    if len(body) > max_bytes:
        raise BodyTooLargeError
    if declared is not None and len(body) < declared:
        raise BodyTooSlowError
    return body
