"""Load on the webhook, cheap enough to stay out of the way: one thread, raw sockets, prebuilt bytes.

Each request has a body of its own, so that none is a duplicate; only its number is put into a ready
request. What an answer says beyond its status is not looked at.
"""

import itertools
import multiprocessing
import resource
import selectors
import socket
import time
from typing import NamedTuple

from tests.web_process import PATH, SECRET

_BODY = b'{"id": "i-%d", "channel": "voice", "customer": {"email": "someone@example.com"}, "turn": %d}'
_FIRST = 10**12
_HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-CXone-Webhook-Secret: {SECRET}\r\n"
    f"Content-Type: application/json\r\nContent-Length: {len(_BODY % (100, _FIRST))}\r\n\r\n"
).encode()
_TEMPLATE = _HEAD + _BODY
_numbers = itertools.count(_FIRST + time.time_ns() // 1000 % 10**11)


class Load(NamedTuple):
    """What one run of load has seen."""

    answered: int
    """Answers of 202."""
    refused: int
    """Other answers."""
    seconds: float
    latencies_ms: list[float]
    """Of each answer, sorted; in an open loop from the moment the request was due."""
    cpu_seconds: float
    """Of the generator itself."""

    @property
    def per_second(self) -> float:
        """Requests a second that were accepted."""
        return self.answered / self.seconds

    def percentile_ms(self, share: float) -> float:
        """Latency that this share of the answers stayed within."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


def closed_loop(port: int, connections: int, seconds: float) -> Load:
    """Each connection sends its next request when it has its answer: the most that the server does."""
    return _in_a_process(_closed, port, connections, seconds)


def open_loop(port: int, per_second: int, seconds: float) -> Load:
    """Requests are sent when they are due, whatever became of those before: what senders wait."""
    return _in_a_process(_open, port, per_second, seconds)


def _in_a_process(target: object, *args: float) -> Load:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return Load(*pool.apply(target, args))  # type: ignore[arg-type]


def _request() -> bytes:
    number = next(_numbers)
    return _TEMPLATE % (100 + number % 900, number)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _closed(port: int, connections: int, seconds: float) -> Load:
    poller = selectors.DefaultSelector()
    sent: dict[socket.socket, float] = {}
    for _ in range(int(connections)):
        connection = _connect(port)
        poller.register(connection, selectors.EVENT_READ, connection)
        sent[connection] = time.perf_counter()
        connection.sendall(_request())
    began, latencies, refused = time.perf_counter(), [], 0
    while sent:
        for key, _ in poller.select():
            connection = key.data
            status = _answer(connection)
            now = time.perf_counter()
            latencies.append((now - sent.pop(connection)) * 1000)
            refused += status != b"202"
            if now - began < seconds:
                sent[connection] = now
                connection.sendall(_request())
    return _told(latencies, refused, began)


def _open(port: int, per_second: int, seconds: float) -> Load:
    poller = selectors.DefaultSelector()
    idle: list[socket.socket] = []
    due_of: dict[socket.socket, float] = {}
    began, latencies, refused, started = time.perf_counter(), [], 0, 0
    while started < per_second * seconds or due_of:
        now = time.perf_counter()
        while started < per_second * seconds and (due := began + started / per_second) <= now:
            if not idle:
                idle.append(_connect(port))
                poller.register(idle[0], selectors.EVENT_READ, idle[0])
            connection = idle.pop()
            due_of[connection] = due
            connection.sendall(_request())
            started += 1
        pause = max(0.0, began + started / per_second - time.perf_counter())
        for key, _ in poller.select(pause if started < per_second * seconds else None):
            status = _answer(key.data)
            latencies.append((time.perf_counter() - due_of.pop(key.data)) * 1000)
            refused += status != b"202"
            idle.append(key.data)
    return _told(latencies, refused, began)


def _answer(connection: socket.socket) -> bytes:
    """Read one answer whole; its status."""
    data = connection.recv(65536)
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                return head[9:12]
        more = connection.recv(65536)
        if not more:
            raise ConnectionError(f"closed in the middle of an answer: {data[:100]!r}")
        data += more


def _told(latencies: list[float], refused: int, began: float) -> Load:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - began
    answered = len(latencies) - refused
    return Load(answered, refused, seconds, sorted(latencies), usage.ru_utime + usage.ru_stime)
