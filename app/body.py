"""Reading a request body within bounds of size and time."""

from flask import Request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]

from app.deadlines import deadlines


class BodyTooLargeError(Exception):
    """The body has more bytes than allowed, as declared or as counted."""


class BodyTooSlowError(Exception):
    """The body did not arrive in time, or not whole."""


class BodyMalformedError(Exception):
    """The chunks of the body are not what HTTP/1.1 has."""


def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole raw body, whatever its content type says; never parsed as a form.

    Raises:
        BodyTooLargeError, BodyTooSlowError, BodyMalformedError
    """
    # The server's own stream ends with the body, chunked or not; a byte more than allowed is enough to know.
    declared = request.content_length
    wanted = max_bytes + 1 if declared is None else min(declared, max_bytes + 1)
    try:
        body: bytes = request.environ["wsgi.input"].read(wanted)
    except OSError:
        raise BodyTooSlowError from None
    except ParseException:  # its message quotes the body
        raise BodyMalformedError from None
    if len(body) > max_bytes:
        raise BodyTooLargeError
    if declared is not None and len(body) < declared:
        raise BodyTooSlowError
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        deadlines.forget(connection)
    return body
