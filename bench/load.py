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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.pool import AsyncResult
from typing import Any, NamedTuple

from testkit.web_process import PATH, SECRET

_BODY = b'{"id": "i-%d", "channel": "voice", "customer": {"email": "someone@example.com"}, "turn": %d}'
_FIRST = 10**12
_HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-CXone-Webhook-Secret: {SECRET}\r\n"
    "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
).encode()
_TEMPLATE = _HEAD % len(_BODY % (100, _FIRST)) + _BODY
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


class _Sent(NamedTuple):
    """A request and when it was due."""

    due: float
    request: bytes


OnResponse = Callable[[_Sent, tuple[bytes, bytes]], None]
"""Called with a request, and the status and body of its response."""


def closed_loop(port: int, connections: int, seconds: float) -> LoadResult:
    """Send a connection's next request when its response arrives; measures the server's maximum."""
    return _run_in_process(_closed, port, connections, seconds)


def open_loop(port: int, per_second: int, seconds: float) -> LoadResult:
    """Send requests at a fixed rate, independent of responses; measures latency."""
    return _run_in_process(_open, port, per_second, seconds)


def post_evenly(port: int, bodies: list[bytes], per_second: float) -> list[float]:
    """Post bodies at a fixed rate, each of which must be accepted.

    Returns:
        When each was answered, by ``time.perf_counter``.
    """
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_post, (port, bodies, per_second))


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
    responses = _Responses()
    requests = (_request() for _ in range(int(per_second * seconds)))
    _send_evenly(port, requests, per_second, lambda sent, response: responses.add(response, _since(sent.due)))
    return responses.result()


def _post(port: int, bodies: list[bytes], per_second: float) -> list[float]:
    answered: dict[bytes, float] = {}

    def record(sent: _Sent, response: tuple[bytes, bytes]) -> None:
        assert response[0] == b"202", response
        answered[sent.request] = time.perf_counter()

    requests = [_HEAD % len(body) + body for body in bodies]
    _send_evenly(port, requests, per_second, record)
    return [answered[request] for request in requests]


def _send_evenly(port: int, requests: Iterable[bytes], per_second: float, on_response: OnResponse) -> None:
    """Send requests at a fixed rate, and wait until all are answered."""
    pool, began = _ConnectionPool(port, on_response), time.perf_counter()
    for number, request in enumerate(requests):
        due = began + number / per_second
        while (left := due - time.perf_counter()) > 0:
            pool.receive(left)
        pool.send(_Sent(due, request))
        pool.receive(0)
    while pool.in_flight:
        pool.receive(None)


def _since(moment: float) -> float:
    return time.perf_counter() - moment


class _ConnectionPool:
    """Connections that are opened as needed, each with at most one request in flight."""

    def __init__(self, port: int, on_response: OnResponse) -> None:
        self._port, self._on_response, self._selector = port, on_response, selectors.DefaultSelector()
        self._idle: list[socket.socket] = []
        self.in_flight: dict[socket.socket, _Sent] = {}

    def send(self, sent: _Sent) -> None:
        if not self._idle:
            self._idle.append(_connect(self._port))
            self._selector.register(self._idle[0], selectors.EVENT_READ, self._idle[0])
        connection = self._idle.pop()
        self.in_flight[connection] = sent
        with suppress(ConnectionError):  # just closed by the server; `receive` then sends it again
            connection.sendall(sent.request)

    def receive(self, timeout: float | None) -> None:
        """Read the responses that have arrived; wait for one until the timeout."""
        for key, _ in self._selector.select(timeout):
            connection = key.data
            sent = self.in_flight.pop(connection, None)
            try:
                response = _read_response(connection)
            except ConnectionError:
                self._replace(connection, sent)
                continue
            if sent is not None:
                self._on_response(sent, response)
                self._idle.append(connection)

    def _replace(self, connection: socket.socket, sent: _Sent | None) -> None:
        """Close a connection that the server has closed, and send its request again, which creates no second row."""
        self._selector.unregister(connection)
        connection.close()
        if sent is None:
            self._idle.remove(connection)
        else:
            self.send(sent)


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
