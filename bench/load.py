"""A load generator for the webhook that uses little CPU: one thread, raw sockets and prepared requests.

Each request has a unique body, so none is a duplicate: only a number is filled into a prepared request. Of a
response only the status and the row's id are parsed.
"""

import itertools
import multiprocessing
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.pool import AsyncResult
from typing import Any, NamedTuple

from testkit.web_process import PATH, SECRET

_BODY = b'{"id": "i-%d", "channel": "voice", "customer": {"email": "someone@example.com"}, "turn": %d}'
_FIRST = 10**12
_HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-CXone-Webhook-Secret: {SECRET}\r\n"
    f"Content-Type: application/json\r\nContent-Length: {len(_BODY % (100, _FIRST))}\r\n\r\n"
).encode()
_TEMPLATE = _HEAD + _BODY
_numbers = itertools.count(_FIRST + time.time_ns() // 1000 % 10**11)


class LoadResult(NamedTuple):
    """The result of one run."""

    accepted: int
    """Number of responses with 202."""
    refused: int
    """Number of other responses."""
    seconds: float
    latencies_ms: list[float]
    """Sorted latencies; in an open loop measured from when each request was due."""
    cpu_seconds: float
    """CPU time of the generator itself."""
    outbox_ids: list[int]
    """Ids of the accepted rows."""

    @property
    def per_second(self) -> float:
        """Accepted requests a second."""
        return self.accepted / self.seconds

    def percentile_ms(self, share: float) -> float:
        """Return the latency that this share of the responses did not exceed."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


def closed_loop(port: int, connections: int, seconds: float) -> LoadResult:
    """Send a connection's next request when its response arrives; measures the server's maximum."""
    return _run_in_process(_closed, port, connections, seconds)


def open_loop(port: int, per_second: int, seconds: float) -> LoadResult:
    """Send requests at a fixed rate, independent of responses; measures latency."""
    return _run_in_process(_open, port, per_second, seconds)


@contextmanager
def open_loop_in_background(port: int, per_second: float, seconds: float) -> Iterator[AsyncResult[LoadResult]]:
    """Run ``open_loop`` in the background within the block."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        yield pool.apply_async(_open, (port, per_second, seconds))


def _run_in_process(target: Any, *args: float) -> LoadResult:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return LoadResult(*pool.apply(target, args))


def _request() -> bytes:
    number = next(_numbers)
    return _TEMPLATE % (100 + number % 900, number)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _closed(port: int, connections: int, seconds: float) -> LoadResult:
    selector, responses = selectors.DefaultSelector(), _Responses()
    sent: dict[socket.socket, float] = {}
    for _ in range(int(connections)):
        connection = _connect(port)
        selector.register(connection, selectors.EVENT_READ, connection)
        sent[connection] = time.perf_counter()
        connection.sendall(_request())
    while sent:
        for key, _ in selector.select():
            connection = key.data
            response = _read_response(connection)
            now = time.perf_counter()
            responses.add(response, now - sent.pop(connection))
            if now - responses.began < seconds:
                sent[connection] = now
                connection.sendall(_request())
    return responses.result()


def _open(port: int, per_second: float, seconds: float) -> LoadResult:
    count = int(per_second * seconds)
    pool, began, sent = _ConnectionPool(port), time.perf_counter(), 0
    while sent < count or pool.in_flight:
        while sent < count and (due := began + sent / per_second) <= time.perf_counter():
            pool.send(due, _request())
            sent += 1
        timeout = max(0.0, began + sent / per_second - time.perf_counter())
        pool.receive(timeout if sent < count else None)
    return pool.responses.result()


class _ConnectionPool:
    """Connections that are opened as needed, each with at most one request in flight."""

    def __init__(self, port: int) -> None:
        self._port, self._selector = port, selectors.DefaultSelector()
        self._idle: list[socket.socket] = []
        self.in_flight: dict[socket.socket, tuple[float, bytes]] = {}
        """When each request was due, and the request."""
        self.responses = _Responses()

    def send(self, due: float, request: bytes) -> None:
        if not self._idle:
            self._idle.append(_connect(self._port))
            self._selector.register(self._idle[0], selectors.EVENT_READ, self._idle[0])
        connection = self._idle.pop()
        self.in_flight[connection] = due, request
        with suppress(ConnectionError):  # just closed by the server; `receive` then sends it again
            connection.sendall(request)

    def receive(self, timeout: float | None) -> None:
        """Read the responses that have arrived; wait for one until the timeout."""
        for key, _ in self._selector.select(timeout):
            connection = key.data
            request = self.in_flight.pop(connection, None)
            try:
                response = _read_response(connection)
            except ConnectionError:
                self._replace(connection, request)
                continue
            if request is not None:
                self.responses.add(response, time.perf_counter() - request[0])
                self._idle.append(connection)

    def _replace(self, connection: socket.socket, request: tuple[float, bytes] | None) -> None:
        """Close a connection that the server has closed, and send its request again, which creates no second row."""
        self._selector.unregister(connection)
        connection.close()
        if request is None:
            self._idle.remove(connection)
        else:
            self.send(*request)


def _read_response(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read one whole response and return its status and body."""
    data = connection.recv(65536)
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                return head[9:12], body
        more = connection.recv(65536)
        if not more:
            raise ConnectionError(f"closed in the middle of a response: {data[:100]!r}")
        data += more


class _Responses:
    """Counts responses."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._latencies_ms: list[float] = []
        self._ids: list[int] = []
        self._refused = 0

    def add(self, response: tuple[bytes, bytes], seconds: float) -> None:
        """Count a response and its latency."""
        status, body = response
        self._latencies_ms.append(seconds * 1000)
        if status != b"202":
            self._refused += 1
        elif b'"outboxId"' in body:  # a bare route returns none
            self._ids.append(int(body.partition(b'"outboxId": ')[2].partition(b"}")[0].partition(b",")[0]))

    def result(self) -> LoadResult:
        """Return the result so far."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return LoadResult(
            accepted=len(self._latencies_ms) - self._refused,
            refused=self._refused,
            seconds=time.perf_counter() - self.began,
            latencies_ms=sorted(self._latencies_ms),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            outbox_ids=self._ids,
        )
