"""A server that answers each request with given bytes, whether they are HTTP or not."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tests.fuzz.corpus import Input, fill_length

ENDLESS = re.compile(rb"X-Endless: (\d{1,5})\r\n")
"""A line that is left out: the last bytes of the answer, as many as it says, are sent over and over."""
IDLE_SECONDS = 0.1
"""A connection without a further request is closed after this time, so a body that is too short ends."""
_REQUEST_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Request(NamedTuple):
    """A request that arrived."""

    path: str
    head: bytes


Answer = Callable[[Request], bytes]


def raw_answer(data: bytes) -> tuple[bytes, bytes]:
    """Return what an input of the corpus sends: once, and then over and over."""
    endless = ENDLESS.search(data)
    data = fill_length(ENDLESS.sub(b"", data, count=1))
    return data, data[-int(endless[1]) :] if endless and int(endless[1]) else b""


def json_answer(body: bytes, status: str = "200 OK", further: str = "") -> bytes:
    """Return an answer as the service gives it."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{further}\r\n"
    return head.encode() + body


class AnswerServer:
    """Answers every request by a function.

    Args:
        answer: returns the bytes for a request, in the form of the corpus.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="answers", daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=[connection], name="answer", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            received = b""
            connection.settimeout(30)
            while True:
                while b"\r\n\r\n" not in received:
                    part = connection.recv(65536)
                    if not part:
                        return
                    received += part
                head, _, rest = received.partition(b"\r\n\r\n")
                length = _REQUEST_LENGTH.search(head)
                while length and len(rest) < int(length[1]):
                    rest += connection.recv(65536)
                received = rest[int(length[1]) if length else 0 :]
                once, repeated = raw_answer(self.answer(Request(head.split(b" ")[1].decode(), head)))
                connection.sendall(once)
                while repeated:
                    connection.sendall(repeated)
                connection.settimeout(IDLE_SECONDS)


@contextmanager
def serve(answer: Answer) -> Iterator[AnswerServer]:
    """Serve answers within the block."""
    server = AnswerServer(answer)
    try:
        yield server
    finally:
        server.close()


class Current:
    """The input whose bytes are the answer now."""

    def __init__(self) -> None:
        self.given = Input("", b"")

    def __call__(self, _request: Request) -> bytes:
        """Answer with it."""
        return self.given.data
