"""A scoring endpoint in a process of its own: answers after 5 ms, and counts whom it was called for.

Plain sockets, so that it is cheap beside what is measured.
"""

import http.client
import json
import multiprocessing
import queue
import re
import selectors
import socket
import time
from typing import Any

from testkit.services.process import free_port
from testkit.waiting import wait_until

LATENCY_SECONDS = 0.005
_KEY = re.compile(rb"\r\nIdempotency-Key: (\d+)\r\n", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


class Scoring:
    """The endpoint; it does not answer before it is started."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/score"
        self._process = multiprocessing.Process(target=_serve, args=(self._port,), daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._process.start()
        wait_until(lambda: self.counts() is not None, "the endpoint answers")

    def stop(self) -> None:
        """Answer no more."""
        self._process.kill()
        self._process.join()

    def counts(self) -> dict[str, int] | None:
        """How many ``calls`` with a key came, and with how many distinct ``keys``; None while it does not answer."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            connection.request("GET", "/counts")
            counts: dict[str, int] = json.loads(connection.getresponse().read())
        except OSError:
            return None
        return counts


def _serve(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    listener.setblocking(False)
    selector, due = selectors.DefaultSelector(), queue.Queue[tuple[float, Any]]()
    selector.register(listener, selectors.EVENT_READ)
    calls, keys = 0, set[int]()
    while True:
        left = due.queue[0][0] - time.monotonic() if due.queue else 1.0
        for key, _ in selector.select(max(0.0, left)):
            if key.fileobj is listener:
                connection, _address = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            peer: Any = key.fileobj
            data = _received(peer)
            for named in _KEY.findall(data):
                calls += 1
                keys.add(int(named))
            if not data:
                selector.unregister(peer)
                peer.close()
            elif data.startswith(b"GET "):
                body = json.dumps({"calls": calls, "keys": len(keys)}).encode()
                peer.sendall(_HEAD % (len(body), body))
            elif data.endswith(b"}"):  # head and body may come apart; the body ends the request
                due.put((time.monotonic() + LATENCY_SECONDS, peer))
        while due.queue and due.queue[0][0] <= time.monotonic():
            try:
                due.get()[1].sendall(_HEAD % (2, b"{}"))
            except OSError:
                continue


def _received(peer: Any) -> bytes:
    try:
        return bytes(peer.recv(65_536))
    except OSError:
        return b""
