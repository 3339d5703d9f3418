"""A scoring endpoint in a separate process: it answers after 5 ms and counts the idempotency keys.

It uses plain sockets, so that it uses little CPU compared with what is measured.
"""

import http.client
import json
import multiprocessing
import re
import selectors
import socket
import time
from collections import deque
from contextlib import suppress
from typing import cast

from relay.demo.ports import free_port
from testkit.waiting import wait_until

LATENCY_SECONDS = 0.005
_KEY = re.compile(rb"\r\nIdempotency-Key: (\d+)\r\n", re.IGNORECASE)
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


class ScoringEndpoint:
    """The endpoint. Its port is refused until it is started."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/score"
        self._process = multiprocessing.Process(target=_serve, args=(self._port,), daemon=True)

    def start(self) -> None:
        """Start the process."""
        self._process.start()
        wait_until(lambda: self.counts() is not None, "the endpoint answers")

    def stop(self) -> None:
        """Kill the process, if it was started."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()

    def counts(self) -> dict[str, int] | None:
        """Return the number of ``calls`` with a key and of distinct ``keys``, or None if it does not answer."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            connection.request("GET", "/counts")
            counts: dict[str, int] = json.loads(connection.getresponse().read())
        except OSError:
            return None
        return counts


def _serve(port: int) -> None:
    _Server(socket.create_server(("127.0.0.1", port), backlog=512)).run()


class _Server:
    """The endpoint's event loop."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._due: deque[tuple[float, socket.socket]] = deque()
        """Connections to answer, and when."""
        self._calls, self._keys = 0, set[int]()

    def run(self) -> None:
        """Serve until the process ends."""
        while True:
            timeout = self._due[0][0] - time.monotonic() if self._due else 1.0
            for key, _ in self._selector.select(max(0.0, timeout)):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(cast("socket.socket", key.fileobj))
            while self._due and self._due[0][0] <= time.monotonic():
                with suppress(OSError):
                    self._due.popleft()[1].sendall(_RESPONSE % (2, b"{}"))

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        data = _receive(connection)
        for key in _KEY.findall(data):
            self._calls += 1
            self._keys.add(int(key))
        if not data:
            self._selector.unregister(connection)
            connection.close()
        elif data.startswith(b"GET "):
            body = json.dumps({"calls": self._calls, "keys": len(self._keys)}).encode()
            connection.sendall(_RESPONSE % (len(body), body))
        elif data.endswith(b"}"):  # head and body may arrive separately; the body ends the request
            self._due.append((time.monotonic() + LATENCY_SECONDS, connection))


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except OSError:
        return b""
