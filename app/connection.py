"""One client's connection: what it has sent, what it is owed, and how long it has for either.

The poller's thread owns a connection, except while a thread handles a request of it (``State.IN_HAND``).
To the HTTP parser a connection looks like a socket.
"""

import re
import socket
import struct
from contextlib import suppress
from enum import IntEnum
from time import monotonic

HEAD_SECONDS = 3.0
"""For a head, from the connection or, on a connection that is kept, from its first byte."""
REQUEST_SECONDS = 10.0
"""For a whole request, from its first byte."""
SEND_SECONDS = 5.0
"""For a client to take its answer."""
LINGER_SECONDS = 2.0
"""For a client to close after its last answer: closing on unread bytes would destroy the answer (RFC 9112, 9.6)."""
MAX_HEAD_BYTES = 16_384
MAX_DISCARDED_BYTES = 16 * 2**20
"""Of what a client sends after its last answer."""
RECEIVED_AT_ONCE = 65_536

_SECRET = re.compile(rb"\r\nx-cxone-webhook-secret:([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
_CONTINUE = re.compile(rb" HTTP/1\.1\r\n(?:.*\r\n)?expect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE | re.DOTALL)
_CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r", re.IGNORECASE)


class State(IntEnum):
    """What a connection waits for; where there are too many, those of the lowest state are given up first."""

    CLOSING = 0
    """Answered for the last time: the client has to close."""
    HEAD = 1
    SENDING = 2
    """The client has to take its answer."""
    BODY = 3
    IDLE = 4
    """Kept for a further request."""
    IN_HAND = 5
    """A thread handles its request, or will."""


class Connection:
    """A connection that was accepted.

    Args:
        plain: its socket; it never blocks.
        client: address of the other side.
        server: address of this side.
    """

    def __init__(self, plain: socket.socket, client: object, server: object) -> None:
        plain.setblocking(False)
        self.plain, self.client, self.server = plain, client, server
        self.sock = self
        """By this name the server's request handling writes its answer."""
        self.state = State.HEAD
        self.arrived = monotonic()
        """When the first byte of the request came."""
        self.deadline = self.arrived + HEAD_SECONDS
        self.is_sender = False
        """Whether a live secret was shown. Only then a body is waited for, and the connection kept."""
        self.is_kept = False
        self.has_ended = False
        """Whether nothing more will come from the client, or be waited for."""
        self.received = bytearray()
        self.unsent = bytearray()
        self.watched = 0
        """Events that the poller watches for."""
        self.looks, self.bytes_seen = 0, 0
        """How often, and how much, was received for the request."""
        self._head_bytes = self._chunk_start = 0

    # What the poller does -----------------------------------------------------------------------------

    def fileno(self) -> int:
        """Of its socket: by it the poller watches a connection."""
        return self.plain.fileno()

    def receive(self) -> None:
        """Take in what has come.

        Raises:
            OSError: the connection is broken.
        """
        with suppress(BlockingIOError):
            data = self.plain.recv(RECEIVED_AT_ONCE)
            self.has_ended = not data
            self.looks += 1
            self.bytes_seen += len(data)
            if self.state is not State.CLOSING:
                self.received += data

    @property
    def is_dripping(self) -> bool:
        """Whether what comes is so little at a time that looking at once each time would cost too much."""
        return self.looks > 4 and self.bytes_seen < 512 * self.looks

    def head(self) -> bytes | None:
        """The request's head with its empty line; None while it is not whole."""
        found = self.received.find(b"\r\n\r\n")
        if found < 0:
            return None
        self._head_bytes = found + 4
        return bytes(self.received[: self._head_bytes])

    def lacks_body(self, head: bytes, max_bytes: int) -> bool:
        """Whether more of the body is to come. A guess that decides when a request is handled, never what it is:
        what is in doubt is left to the HTTP parser, as is a body that is too large.
        """
        length = _LENGTH.search(head)
        if _ENCODED.search(head):
            return bool(_CHUNKED.search(head)) and not length and self._lacks_chunk(max_bytes)
        return length is not None and len(self.received) - self._head_bytes < int(length[1]) <= max_bytes

    def _lacks_chunk(self, max_bytes: int) -> bool:
        start = max(self._chunk_start, self._head_bytes)
        while len(self.received) <= self._head_bytes + 2 * max_bytes:  # chunks may be small, and their frames as large
            self._chunk_start = start
            end = self.received.find(b"\r\n", start)
            if end < 0:
                return len(self.received) - start < MAX_HEAD_BYTES
            size = _CHUNK_SIZE.match(self.received, start)
            if size is None:
                return False
            if int(size[1], 16) == 0:  # the last one: a line follows for each trailer, then an empty one
                return self.received.find(b"\r\n\r\n", end) < 0
            start = end + 2 + int(size[1], 16) + 2
            if start > len(self.received):
                return start - self._head_bytes <= 2 * max_bytes
            if self.received[start - 2 : start] != b"\r\n":
                return False
        return False

    def begin_next(self, keep_seconds: float) -> None:
        """Wait for a further request, of which something may have come."""
        now = monotonic()
        self.state, self.deadline = State.IDLE, now + keep_seconds
        self.looks, self.bytes_seen = 0, 0
        self._chunk_start = 0
        if self.received:
            self.begin_head()

    def begin_head(self) -> None:
        """The first byte of a request has come."""
        self.arrived = monotonic()
        if self.state is State.IDLE:
            self.state, self.deadline = State.HEAD, self.arrived + HEAD_SECONDS

    def begin_body(self, head: bytes) -> None:
        """Wait for the rest of the body, and ask for it where the client waits for that."""
        self.state, self.deadline = State.BODY, self.arrived + REQUEST_SECONDS
        if _CONTINUE.search(head):
            self.unsent += b"HTTP/1.1 100 Continue\r\n\r\n"
            self.flush()

    def begin_sending(self) -> None:
        """Give the client its time to take the answer."""
        self.state, self.deadline = State.SENDING, monotonic() + SEND_SECONDS

    def begin_closing(self) -> None:
        """Tell the client that nothing more comes, and give it the time to close."""
        self.state, self.deadline = State.CLOSING, monotonic() + LINGER_SECONDS
        self.received.clear()
        self.looks, self.bytes_seen = 0, 0
        with suppress(OSError):
            self.plain.shutdown(socket.SHUT_WR)

    def flush(self) -> bool:
        """Send what is unsent, as far as the client takes it; whether all of it is sent."""
        if self.unsent:
            try:
                sent = self.plain.send(self.unsent)
            except BlockingIOError:
                sent = 0
            except OSError:  # the client is gone
                sent, self.has_ended, self.is_kept = len(self.unsent), True, False
            del self.unsent[:sent]
        return not self.unsent

    def close(self) -> None:
        """Close it; what is unsent then is thrown away, by the kernel as well."""
        if self.unsent:
            with suppress(OSError):
                self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.plain.close()

    # What the HTTP parser sees ------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """The next bytes; none where the client has sent no more in time.

        Only a sender is waited for, in the rare case that the poller has guessed wrong.
        """
        if self.received:
            data = bytes(self.received[:size])
            del self.received[:size]
            return data
        remaining = self.arrived + REQUEST_SECONDS - monotonic()
        if self.has_ended or not self.is_sender or remaining <= 0:
            return b""
        try:
            self.plain.settimeout(remaining)
            return self.plain.recv(size)
        except TimeoutError:
            return b""
        finally:
            self.plain.setblocking(False)

    def sendall(self, data: bytes) -> None:
        """Keep a part of the answer; it is sent in one piece."""
        self.unsent += data

    def send(self, data: bytes) -> int:
        """Drop ``100 Continue``, which the server wants to send before it knows whether the body is wanted."""
        return len(data)


def shown_secret(head: bytes) -> str | None:
    """The webhook secret that a head shows, None if there is none."""
    found = _SECRET.search(head)
    return found[1].strip(b" \t").decode("latin-1") if found else None
