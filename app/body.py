"""Reading a request body within bounds of size and time."""

import socket
import threading
from time import monotonic
from typing import Any

from flask import Request

BODY_SECONDS = 10.0
"""Longest time for a whole body: a sender that drips must not hold a thread for ever."""


class BodyTooLargeError(Exception):
    """The body has more bytes than allowed, as declared or as counted."""


class BodyTooSlowError(Exception):
    """The body did not arrive in time, or not whole."""


class _Watchdog:
    """Shuts the reading side of sockets whose time is over; one thread for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[socket.socket, float]] = {}
        self._thread: threading.Thread | None = None

    def watch(self, connection: socket.socket) -> None:
        with self._lock:
            self._watched[id(connection)] = (connection, monotonic() + BODY_SECONDS)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="body-watchdog", daemon=True)
                self._thread.start()

    def forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._watched.pop(id(connection), None)

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(0.5):
            now = monotonic()
            with self._lock:
                late = [connection for connection, deadline in self._watched.values() if deadline < now]
                for connection in late:
                    del self._watched[id(connection)]
                    try:
                        connection.shutdown(socket.SHUT_RD)
                    except OSError:
                        continue  # it is gone already


_watchdog = _Watchdog()


def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole raw body, whatever its content type says; never parsed as a form.

    Raises:
        BodyTooLargeError, BodyTooSlowError
    """
    connection: Any = request.environ.get("gunicorn.socket")
    if connection is not None:
        _watchdog.watch(connection)
    # The server's own stream ends with the body, chunked or not; a byte more than allowed is enough to know.
    declared = request.content_length
    wanted = max_bytes + 1 if declared is None else min(declared, max_bytes + 1)
    try:
        body: bytes = request.environ["wsgi.input"].read(wanted)
    except OSError:
        raise BodyTooSlowError from None
    finally:
        if connection is not None:
            _watchdog.forget(connection)
    if len(body) > max_bytes:
        raise BodyTooLargeError
    if declared is not None and len(body) < declared:
        raise BodyTooSlowError
    return body
