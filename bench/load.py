"""Load on the webhook, cheap enough to stay out of the way: one thread, raw sockets, prebuilt bytes.

Each request has a body of its own, so that none is a duplicate; only its number is put into a ready
request. Of an answer its status and the row's id are looked at.
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
    outbox_ids: list[int]
    """Of the rows that answers of 202 name."""

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


@contextmanager
def open_loop_beside(port: int, per_second: float, seconds: float) -> Iterator[AsyncResult[Load]]:
    """The same while the block runs."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        yield pool.apply_async(_open, (port, per_second, seconds))


def _in_a_process(target: Any, *args: float) -> Load:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return Load(*pool.apply(target, args))


def _request() -> bytes:
    number = next(_numbers)
    return _TEMPLATE % (100 + number % 900, number)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _closed(port: int, connections: int, seconds: float) -> Load:
    poller, answers = selectors.DefaultSelector(), _Answers()
    sent: dict[socket.socket, float] = {}
    for _ in range(int(connections)):
        connection = _connect(port)
        poller.register(connection, selectors.EVENT_READ, connection)
        sent[connection] = time.perf_counter()
        connection.sendall(_request())
    while sent:
        for key, _ in poller.select():
            connection = key.data
            answer = _answer(connection)
            now = time.perf_counter()
            answers.note(answer, now - sent.pop(connection))
            if now - answers.began < seconds:
                sent[connection] = now
                connection.sendall(_request())
    return answers.told()


def _open(port: int, per_second: float, seconds: float) -> Load:
    poller, answers, count = selectors.DefaultSelector(), _Answers(), int(per_second * seconds)
    idle: list[socket.socket] = []
    waiting: dict[socket.socket, tuple[float, bytes]] = {}
    started = 0

    def send(due: float, request: bytes) -> None:
        if not idle:
            idle.append(_connect(port))
            poller.register(idle[0], selectors.EVENT_READ, idle[0])
        connection = idle.pop()
        waiting[connection] = due, request
        with suppress(ConnectionError):  # closed at this moment: the answer is missing, which is seen below
            connection.sendall(request)

    while started < count or waiting:
        while started < count and (due := answers.began + started / per_second) <= time.perf_counter():
            send(due, _request())
            started += 1
        pause = max(0.0, answers.began + started / per_second - time.perf_counter())
        for key, _ in poller.select(pause if started < count else None):
            connection = key.data
            asked = waiting.pop(connection, None)
            try:
                answer = _answer(connection)
            except ConnectionError:  # the other side closes what was idle for long
                poller.unregister(connection)
                connection.close()
                if asked is None:
                    idle.remove(connection)
                else:
                    send(*asked)  # as senders do: it is one row, however often it is sent
                continue
            if asked is not None:
                answers.note(answer, time.perf_counter() - asked[0])
                idle.append(connection)
    return answers.told()


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read one answer whole; its status and its body."""
    data = connection.recv(65536)
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                return head[9:12], body
        more = connection.recv(65536)
        if not more:
            raise ConnectionError(f"closed in the middle of an answer: {data[:100]!r}")
        data += more


class _Answers:
    """Counts answers as they come."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._latencies_ms: list[float] = []
        self._ids: list[int] = []
        self._refused = 0

    def note(self, answer: tuple[bytes, bytes], seconds: float) -> None:
        """One answer, and how long it took."""
        status, body = answer
        self._latencies_ms.append(seconds * 1000)
        if status != b"202":
            self._refused += 1
        elif b'"outboxId"' in body:  # an answer of a bare route has none
            self._ids.append(int(body.partition(b'"outboxId": ')[2].partition(b"}")[0].partition(b",")[0]))

    def told(self) -> Load:
        """What was seen."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        answered, seconds = len(self._latencies_ms) - self._refused, time.perf_counter() - self.began
        latencies, used = sorted(self._latencies_ms), usage.ru_utime + usage.ru_stime
        return Load(answered, self._refused, seconds, latencies, used, self._ids)
