"""The relay's own HTTP port: metrics and health.

``/readyz`` stays 200 while a service is down, for a restart would not bring it back; the body names what waits.
``/healthz`` fails once the relay's loop has not turned for two minutes, which a restart may cure.

Whoever reaches the port can cost the relay no more than ``MAX_CONNECTIONS`` descriptors and no thread: one event loop
serves all, a connection that has not been served in time is cut, and where there are too many the oldest gives way.
"""

import asyncio
import errno
import hmac
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from relay.errors import MisconfiguredError
from relay.health import Health

MAX_CONNECTIONS = 16
MAX_HEAD_BYTES = 8192
HEAD_TIMEOUT_SECONDS = 3.0
"""How long a client has for its request."""
CONNECTION_TIMEOUT_SECONDS = 8.0
"""How long a connection lasts at most: for the request, and for reading the answer."""
STALLED_SECONDS = 120.0
"""How long the relay's loop may take for one turn; each of its steps has a time-out far below."""
ACCEPT_BATCH = 4
"""Fewer than ``MAX_CONNECTIONS``: what came with its request is answered before later ones can push it out."""
LISTEN_BACKLOG = 1024
RENDER_PAUSE_FACTOR = 9
"""Metrics are rendered anew after so many times what rendering took: whoever asks costs a tenth of a core at most."""


class MetricsServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` from a thread of its own.

    Args:
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        registry: of the metrics.
        health: what ``/readyz`` and ``/healthz`` report.
        token: needed for ``/metrics`` and for the reasons in ``/readyz``; None: nothing is.

    Raises:
        MisconfiguredError: host and port cannot be listened on.
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, health: Health, token: bytes | None = None
    ) -> None:
        self._registry, self._health, self._token = registry, health, token
        self._connections: dict[_Connection, None] = {}  # in the order of their coming
        self._rendered, self._rendered_until = b"", 0.0
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CONNECTION_TIMEOUT_SECONDS)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await self._loop.create_server(self._connection, sock=self._socket, backlog=ACCEPT_BATCH)
        self._socket.listen(LISTEN_BACKLOG)  # asyncio accepts as many at once as it lets queue
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.cut()
        await asyncio.sleep(0)  # what was cut is closed now

    def _connection(self) -> "_Connection":
        return _Connection(self._connections, self._answer)

    def _answer(self, path: str, authorization: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body; the path has to match as it stands, undecoded."""
        if path == "/metrics":
            if not self._is_known(authorization):
                return HTTPStatus.UNAUTHORIZED, "text/plain", b"METRICS_TOKEN is needed, as a bearer token\n"
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, self._render()
        if path == "/healthz":
            return self._liveness()
        if path == "/readyz":
            return self._readiness(with_reasons=self._is_known(authorization))
        return HTTPStatus.NOT_FOUND, "text/plain", b"here are /metrics, /healthz and /readyz\n"

    def _render(self) -> bytes:
        began = monotonic()
        if began >= self._rendered_until:
            self._rendered = generate_latest(self._registry)
            ended = monotonic()
            self._rendered_until = ended + (ended - began) * RENDER_PAUSE_FACTOR
        return self._rendered

    def _is_known(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, shown = authorization.partition(" ")
        return hmac.compare_digest(shown.strip(" ").encode("latin-1"), self._token) and scheme.lower() == "bearer"

    def _liveness(self) -> tuple[HTTPStatus, str, bytes]:
        seconds = self._health.liveness_age_seconds()
        if seconds < STALLED_SECONDS:
            return _json(HTTPStatus.OK, {"status": "ok"})
        detail = f"the relay's loop has not turned for {seconds:.0f} s"
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stalled", "detail": detail})

    def _readiness(self, *, with_reasons: bool) -> tuple[HTTPStatus, str, bytes]:
        degraded = [
            {"subject": subject, "reason": reason} if with_reasons else {"subject": subject}
            for subject, reason in sorted(self._health.conditions().items())
        ]
        return _json(HTTPStatus.OK, {"status": "ok", "degraded": degraded})


class _Connection(asyncio.Protocol):
    """One request and its answer.

    Args:
        open_ones: every connection of the server, the oldest first.
        answer: status, content type and body for a path and an ``Authorization`` header.
    """

    def __init__(
        self, open_ones: dict["_Connection", None], answer: Callable[[str, str], tuple[HTTPStatus, str, bytes]]
    ) -> None:
        self._open_ones, self._answer = open_ones, answer
        self._head = bytearray()
        self._deadlines: list[asyncio.TimerHandle] = []
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock; the oldest connection gives way if there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server has no other
        self._transport = transport
        loop = asyncio.get_running_loop()
        self._deadlines = [
            loop.call_later(HEAD_TIMEOUT_SECONDS, self._refuse_late),
            loop.call_later(CONNECTION_TIMEOUT_SECONDS, self.cut),
        ]
        if len(self._open_ones) >= MAX_CONNECTIONS:
            next(iter(self._open_ones)).cut()
        self._open_ones[self] = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the connection."""
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Answer once the head is there; a body, or another request, is not read."""
        if self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._respond(bytes(self._head))
        elif len(self._head) > MAX_HEAD_BYTES:
            self._send(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "text/plain", b"")

    def cut(self) -> None:
        """End it now, whatever has not been sent."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        for deadline in self._deadlines:
            deadline.cancel()
        self._open_ones.pop(self, None)

    def _refuse_late(self) -> None:
        self._send(HTTPStatus.REQUEST_TIMEOUT, "text/plain", b"")

    def _respond(self, head: bytes) -> None:
        first, _, fields = head.partition(b"\r\n")
        try:
            method, target, _version = first.decode("ascii").split(" ")
            headers = http.client.parse_headers(io.BytesIO(fields))
        except (ValueError, http.client.HTTPException):
            self._send(HTTPStatus.BAD_REQUEST, "text/plain", b"")
            return
        if method not in ("GET", "HEAD"):
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"use GET\n")
            return
        answer = self._answer(target.partition("?")[0], headers.get("Authorization", ""))
        self._send(*answer, without_body=method == "HEAD")

    def _send(self, status: HTTPStatus, content_type: str, body: bytes, *, without_body: bool = False) -> None:
        self._deadlines[0].cancel()
        further = {
            HTTPStatus.UNAUTHORIZED: "WWW-Authenticate: Bearer\r\n",
            HTTPStatus.METHOD_NOT_ALLOWED: "Allow: GET, HEAD\r\n",
        }.get(status, "")
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n{further}Connection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + (b"" if without_body else body))
        self._transport.close()  # once it is sent


def _json(status: HTTPStatus, body: dict[str, object]) -> tuple[HTTPStatus, str, bytes]:
    return status, "application/json", json.dumps(body).encode()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; the error names the variable that has to change."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        dual = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=dual)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise MisconfiguredError(
                f"RELAY_METRICS_PORT={port} cannot be listened on ({error.strerror}): where another relay of this host "
                "has it, set another one, or 0 for any that is free"
            ) from None
        raise MisconfiguredError(
            f"RELAY_METRICS_HOST={host} cannot be listened on ({error.strerror}): takes an address of this host, as "
            "127.0.0.1, 0.0.0.0 or ::"
        ) from None
