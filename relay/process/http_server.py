"""The relay's own HTTP port: metrics and health.

``/readyz`` stays 200 while a service is down, because a restart would not help; the body names what is degraded.
``/healthz`` fails when the main loop has not run for two minutes; then a restart may help.

A client can cost the relay at most ``MAX_CONNECTIONS`` file descriptors and no thread: one event loop serves them all,
a connection that takes too long is closed, and when there are too many the oldest one is closed.
"""

import asyncio
import errno
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, disable_created_metrics, generate_latest

from config.bearer import is_bearer
from relay.errors import MisconfiguredError
from relay.health import Health

disable_created_metrics()  # type: ignore[no-untyped-call] # they would double the number of series

MAX_CONNECTIONS = 16
MAX_HEAD_BYTES = 8192
HEAD_TIMEOUT_SECONDS = 3.0
"""How long a client may take to send its request."""
CONNECTION_TIMEOUT_SECONDS = 8.0
"""How long a connection may last, the response included."""
STALLED_SECONDS = 120.0
"""How long one iteration of the main loop may take; each of its steps has a far shorter timeout."""
ACCEPT_BATCH = 4
"""Fewer than ``MAX_CONNECTIONS``, so that a request that has arrived is answered before later ones evict it."""
LISTEN_BACKLOG = 1024
RENDER_PAUSE_FACTOR = 9
"""Rendered metrics are reused for this many times as long as rendering took: scrapes cost a tenth of a core at most."""


class MetricsServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` from a thread of its own.

    Args:
        host: address to listen on.
        port: to listen on; 0 chooses a free one.
        health: what ``/readyz`` and ``/healthz`` report.
        token: required for ``/metrics`` and for the reasons in ``/readyz``; None if neither is protected.
        port_setting: names the port in the error.

    Raises:
        MisconfiguredError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        health: Health,
        token: bytes | None = None,
        port_setting: str = "RELAY_METRICS_PORT",
    ) -> None:
        self._registry, self._health, self._token = registry, health, token
        self._connections: dict[_Connection, None] = {}  # oldest first
        self._rendered, self._rendered_until = b"", 0.0
        self._socket = _listen(host, port, port_setting)
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
        self._socket.listen(LISTEN_BACKLOG)  # asyncio uses one number for the accept batch and the backlog
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # lets the aborted connections close

    def _connection(self) -> "_Connection":
        return _Connection(self._connections, self._answer)

    def _answer(self, path: str, authorization: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body; the path is matched without decoding."""
        if path == "/metrics":
            if not self._authorized(authorization):
                return HTTPStatus.UNAUTHORIZED, "text/plain", b"send METRICS_TOKEN as a bearer token\n"
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, self._render()
        if path == "/healthz":
            return self._liveness()
        if path == "/readyz":
            return self._readiness(with_reasons=self._authorized(authorization))
        return HTTPStatus.NOT_FOUND, "text/plain", b"available: /metrics, /healthz, /readyz\n"

    def _render(self) -> bytes:
        began = monotonic()
        if began >= self._rendered_until:
            self._rendered = generate_latest(self._registry)
            ended = monotonic()
            self._rendered_until = ended + (ended - began) * RENDER_PAUSE_FACTOR
        return self._rendered

    def _authorized(self, authorization: str) -> bool:
        return self._token is None or is_bearer(authorization, self._token)

    def _liveness(self) -> tuple[HTTPStatus, str, bytes]:
        seconds = self._health.liveness_age_seconds()
        if seconds < STALLED_SECONDS:
            return _json(HTTPStatus.OK, {"status": "ok"})
        detail = f"the main loop has not run for {seconds:.0f} s"
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stalled", "detail": detail})

    def _readiness(self, *, with_reasons: bool) -> tuple[HTTPStatus, str, bytes]:
        degraded = [
            {"subject": subject, "reason": reason} if with_reasons else {"subject": subject}
            for subject, reason in sorted(self._health.conditions().items())
        ]
        return _json(HTTPStatus.OK, {"status": "ok", "degraded": degraded})


class _Connection(asyncio.Protocol):
    """One request and its response.

    Args:
        connections: of the server, oldest first.
        respond: returns status, content type and body for a path and an ``Authorization`` header.
    """

    def __init__(
        self, connections: dict["_Connection", None], respond: Callable[[str, str], tuple[HTTPStatus, str, bytes]]
    ) -> None:
        self._connections, self._respond_to = connections, respond
        self._head = bytearray()
        self._deadlines: list[asyncio.TimerHandle] = []
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timeouts; close the oldest connection if there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server has no other kind
        self._transport = transport
        loop = asyncio.get_running_loop()
        self._deadlines = [
            loop.call_later(HEAD_TIMEOUT_SECONDS, self._time_out),
            loop.call_later(CONNECTION_TIMEOUT_SECONDS, self.abort),
        ]
        if len(self._connections) >= MAX_CONNECTIONS:
            next(iter(self._connections)).abort()
        self._connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the connection."""
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Respond once the head has arrived; a body or another request is not read."""
        if self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._respond(bytes(self._head))
        elif len(self._head) > MAX_HEAD_BYTES:
            self._send(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "text/plain", b"")

    def abort(self) -> None:
        """Close it now and discard what has not been sent."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        for deadline in self._deadlines:
            deadline.cancel()
        self._connections.pop(self, None)

    def _time_out(self) -> None:
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
        response = self._respond_to(target.partition("?")[0], headers.get("Authorization", ""))
        self._send(*response, without_body=method == "HEAD")

    def _send(self, status: HTTPStatus, content_type: str, body: bytes, *, without_body: bool = False) -> None:
        self._deadlines[0].cancel()
        extra_headers = {
            HTTPStatus.UNAUTHORIZED: "WWW-Authenticate: Bearer\r\n",
            HTTPStatus.METHOD_NOT_ALLOWED: "Allow: GET, HEAD\r\n",
        }.get(status, "")
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n{extra_headers}Connection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + (b"" if without_body else body))
        self._transport.close()  # once it is sent


def _json(status: HTTPStatus, body: dict[str, object]) -> tuple[HTTPStatus, str, bytes]:
    return status, "application/json", json.dumps(body).encode()


def _listen(host: str, port: int, port_setting: str) -> socket.socket:
    """Open a listening socket; the error names the setting to change."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        dual = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=dual)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise MisconfiguredError(
                f"{port_setting}={port} cannot be listened on ({error.strerror}): if another process on this host uses "
                "it, set another port"
            ) from None
        raise MisconfiguredError(
            f"RELAY_METRICS_HOST={host} cannot be listened on ({error.strerror}): set an address of this host, such as "
            "127.0.0.1, 0.0.0.0 or ::"
        ) from None
