"""gunicorn's threaded worker, made safe against senders that stall, and silent about what they sent.

gunicorn waits without limit for the rest of a head or a body, lets a sender that keeps its side open
stall the loop that accepts connections, and quotes what it cannot parse in answers and log lines.
"""

import contextlib
import socket
from http import HTTPStatus
from time import monotonic
from typing import Any

import structlog
from gunicorn import glogging, util  # type: ignore[import-untyped]
from gunicorn.http import errors  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from app.deadlines import deadlines
from app.problems import CONTENT_TYPE, problem_json
from config.logging import frames

log = structlog.get_logger(__name__)

LINGER_SECONDS = 1.0
"""How long a sender may take to read its answer before the connection is gone."""

_STATUSES = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """Handles requests in threads."""

    def handle(self, conn: Any) -> Any:
        """One request of a connection; whether the connection is kept."""
        connection = conn.sock
        deadlines.watch(connection)
        try:
            kept = super().handle(conn)
        finally:
            deadlines.forget(connection)
        if not kept:
            _linger(connection)
        return kept

    def _keepalive_after(self, conn: Any, keepalive: Any) -> bool:
        """Whether the connection is kept. A body that was read needs no clearing away: gunicorn's own way makes
        four system calls around reading nothing, and after each the thread queues for the interpreter again.
        """
        body = conn.parser.mesg.body
        if keepalive and not body.failed and getattr(body.reader, "length", None) == 0:
            return True
        return bool(super()._keepalive_after(conn, keepalive))

    def handle_error(self, _request: Any, client: Any, _address: Any, error: Exception) -> None:
        """Answer what never reached the application, without a word of it."""
        if isinstance(error, errors.ParseException):
            status = _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST)
            detail = "The request is not valid HTTP/1.1"
            log.warning("a request is not valid HTTP: %s", type(error).__name__, action="not_http")
        else:
            status, detail = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "Something unexpected went wrong here; it is in the log",
            )
            log.error(
                "a request failed unexpectedly: %s",
                type(error).__name__,
                action="unexpected",
                trace=frames(error),
            )
        body = problem_json(status, detail).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            util.write_nonblock(client, head.encode() + body)


def _linger(connection: socket.socket) -> None:
    """Let the sender read its answer: closing on unread bytes would destroy it (RFC 9112, 9.6).

    What still arrives is thrown away. gunicorn does the same, but in the loop that accepts
    connections; it finds nothing left to wait for.
    """
    deadline = monotonic() + LINGER_SECONDS
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (remaining := deadline - monotonic()) > 0:
            connection.settimeout(remaining)
            if not connection.recv(65536):
                break
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class RoutedLogger(glogging.Logger):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's own lines, in the format of all others."""

    def setup(self, cfg: Any) -> None:
        """Leave the lines to the root logger."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
