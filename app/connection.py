"""One client connection: its buffers, its state and its deadline.

The poller's thread owns a connection, except while a request thread handles its request (``State.HANDLING``). To
gunicorn's HTTP parser a connection looks like a socket.
"""

import re
import socket
import struct
from contextlib import suppress
from enum import IntEnum
from time import monotonic

from app.group_commit import Arrival

HEAD_TIMEOUT_SECONDS = 3.0
"""For a request's head, from the connect or, on a connection that was kept open, from the head's first byte."""
REQUEST_TIMEOUT_SECONDS = 10.0
"""For a whole request, from its first byte."""
SEND_TIMEOUT_SECONDS = 5.0
"""For a client to read its response."""
CLOSE_TIMEOUT_SECONDS = 2.0
"""For a client to close after its last response: closing with unread bytes would destroy it (RFC 9112, 9.6)."""
MAX_HEAD_BYTES = 16_384
MAX_DISCARDED_BYTES = 16 * 2**20
"""Of what a client sends after its last response."""
RECEIVE_BYTES = 65_536

_SECRET = re.compile(rb"\r\nx-cxone-webhook-secret:([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
_CONTINUE = re.compile(rb" HTTP/1\.1\r\n(?:.*\r\n)?expect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE | re.DOTALL)
_CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r", re.IGNORECASE)


class State(IntEnum):
    """What a connection waits for. If there are too many connections, the lowest states are closed first."""

    CLOSING = 0
    """The client has its last response, and has to close."""
    HEAD = 1
    SENDING = 2
    """The client has to read its response."""
    BODY = 3
    IDLE = 4
    """Kept open for another request."""
    HANDLING = 5
    """A thread handles its request, or will."""


class Connection:
    """An accepted connection.

    Args:
        client_socket: Becomes non-blocking.
        client: Address of the client.
        server: Address of this side.
    """

    def __init__(self, client_socket: socket.socket, client: object, server: object) -> None:
        client_socket.setblocking(False)
        self.socket, self.client, self.server = client_socket, client, server
        self.sock = self
        """gunicorn writes the response to this attribute."""
        self.state = State.HEAD
        self.arrived = monotonic()
        """When the first byte of the request arrived."""
        self.arrival: Arrival | None = None
        """The request that is handled, if its row may join a batch."""
        self.deadline = self.arrived + HEAD_TIMEOUT_SECONDS
        self.is_authenticated = False
        """Whether the request has a live secret. Only then its body is awaited, and the connection kept open."""
        self.keep_alive = False
        self.input_ended = False
        """Whether the client sends nothing more, or nothing more is awaited."""
        self.received = bytearray()
        self.unsent = bytearray()
        self.watched_events = 0
        """Events that the poller watches for."""
        self.reads, self.bytes_read = 0, 0
        """Of the current request."""
        self._head_bytes = self._chunk_start = 0

    # For the poller -----------------------------------------------------------------------------------

    def fileno(self) -> int:
        """File descriptor by which the poller watches the connection."""
        return self.socket.fileno()

    def receive(self) -> None:
        """Read what has arrived.

        Raises:
            OSError: The connection is broken.
        """
        with suppress(BlockingIOError):
            data = self.socket.recv(RECEIVE_BYTES)
            self.input_ended = not data
            self.reads += 1
            self.bytes_read += len(data)
            if self.state is not State.CLOSING:
                self.received += data

    @property
    def is_trickling(self) -> bool:
        """Whether the client sends so few bytes at a time that reading each at once would cost too much."""
        return self.reads > 4 and self.bytes_read < 512 * self.reads

    def head(self) -> bytes | None:
        """The request's head with its final empty line; None while it is incomplete."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        self._head_bytes = end + 4
        return bytes(self.received[: self._head_bytes])

    def is_body_incomplete(self, head: bytes, max_bytes: int) -> bool:
        """Whether more of the body is to come.

        This estimate decides only when a request is handled, never how: doubtful and oversized bodies are left to the
        HTTP parser.
        """
        length = _LENGTH.search(head)
        if _ENCODED.search(head):
            return bool(_CHUNKED.search(head)) and not length and self._are_chunks_incomplete(max_bytes)
        return length is not None and len(self.received) - self._head_bytes < int(length[1]) <= max_bytes

    def _are_chunks_incomplete(self, max_bytes: int) -> bool:
        start = max(self._chunk_start, self._head_bytes)
        while len(self.received) <= self._head_bytes + 2 * max_bytes:  # framing can be as large as small chunks
            self._chunk_start = start
            end = self.received.find(b"\r\n", start)
            if end < 0:
                return len(self.received) - start < MAX_HEAD_BYTES
            size = _CHUNK_SIZE.match(self.received, start)
            if size is None:
                return False
            if int(size[1], 16) == 0:  # the last chunk: a line for each trailer follows, then an empty one
                return self.received.find(b"\r\n\r\n", end) < 0
            start = end + 2 + int(size[1], 16) + 2
            if start > len(self.received):
                return start - self._head_bytes <= 2 * max_bytes
            if self.received[start - 2 : start] != b"\r\n":
                return False
        return False

    def begin_idle(self, keepalive_seconds: float) -> None:
        """Wait for another request, part of which may have arrived."""
        self.state, self.deadline = State.IDLE, monotonic() + keepalive_seconds
        self.reads, self.bytes_read = 0, 0
        self._chunk_start = 0
        if self.received:
            self.begin_head()

    def begin_head(self) -> None:
        """Wait for the rest of the head: the first byte of a request has arrived."""
        self.arrived = monotonic()
        if self.state is State.IDLE:
            self.state, self.deadline = State.HEAD, self.arrived + HEAD_TIMEOUT_SECONDS

    def begin_body(self, head: bytes) -> None:
        """Wait for the rest of the body; send ``100 Continue`` if the client expects it."""
        self.state, self.deadline = State.BODY, self.arrived + REQUEST_TIMEOUT_SECONDS
        if _CONTINUE.search(head):
            self.unsent += b"HTTP/1.1 100 Continue\r\n\r\n"
            self.flush()

    def begin_sending(self) -> None:
        """Wait for the client to read its response."""
        self.state, self.deadline = State.SENDING, monotonic() + SEND_TIMEOUT_SECONDS

    def begin_closing(self) -> None:
        """Close the sending direction, and wait for the client to close."""
        self.state, self.deadline = State.CLOSING, monotonic() + CLOSE_TIMEOUT_SECONDS
        self.received.clear()
        self.reads, self.bytes_read = 0, 0
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def flush(self) -> bool:
        """Send as much as the client accepts; returns whether everything is sent."""
        if self.unsent:
            try:
                sent = self.socket.send(self.unsent)
            except BlockingIOError:
                sent = 0
            except OSError:  # the client is gone
                sent, self.input_ended, self.keep_alive = len(self.unsent), True, False
            del self.unsent[:sent]
        return not self.unsent

    def close(self) -> None:
        """Close the connection, and discard unsent bytes, those in the kernel included."""
        if self.unsent:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # For gunicorn's HTTP parser -----------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """The next bytes; none if the client has sent no more in time.

        Blocks only if ``is_body_incomplete`` was wrong, and only for an authenticated client.
        """
        if self.received:
            data = bytes(self.received[:size])
            del self.received[:size]
            return data
        remaining = self.arrived + REQUEST_TIMEOUT_SECONDS - monotonic()
        if self.input_ended or not self.is_authenticated or remaining <= 0:
            return b""
        try:
            self.socket.settimeout(remaining)
            return self.socket.recv(size)
        except TimeoutError:
            return b""
        finally:
            self.socket.setblocking(False)

    def sendall(self, data: bytes) -> None:
        """Buffer a part of the response; ``flush`` sends it in one piece."""
        self.unsent += data

    def send(self, data: bytes) -> int:
        """Drop the ``100 Continue`` that gunicorn sends before it is known whether the body is wanted."""
        return len(data)


def secret_header(head: bytes) -> str | None:
    """The value of the webhook secret's header, None if it is absent."""
    found = _SECRET.search(head)
    return found[1].strip(b" \t").decode("latin-1") if found else None
