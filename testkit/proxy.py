"""A TCP proxy between the product and a service: cuts, delays, swallows, and holds one commit at its edge.

Of Kafka's protocol it knows what it needs to recognise a commit: every message begins with its length
(4 bytes); a request goes on with its API key (2), the key's version (2) and a correlation id (4), an
answer with the correlation id. (https://kafka.apache.org/protocol)
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from time import monotonic

END_TXN = 26
"""API key of the request that commits or aborts a transaction."""
_END_TXN_FLEXIBLE_FROM = 3
"""From this version of EndTxn on, a byte of tagged fields follows the one that says commit or abort."""
_LENGTH_BYTES = 4
_CHUNK_BYTES = 65536


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVICE = "to the service"
    FROM_SERVICE = "from the service"


BOTH_DIRECTIONS = frozenset(Direction)


def chunks(source: socket.socket) -> Iterator[bytes]:
    """What arrives on a connection, as it comes."""
    while data := source.recv(_CHUNK_BYTES):
        yield data


def kafka_messages(source: socket.socket) -> Iterator[bytes]:
    """What arrives on a connection of Kafka's, message by message, each with its length."""
    held = bytearray()
    for chunk in chunks(source):
        held += chunk
        while len(held) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int(struct.unpack_from(">i", held)[0])
            if len(held) < end:
                break
            yield bytes(held[:end])
            del held[:end]


class HeldCommit:
    """One commit, kept at the proxy until the test decides what becomes of it.

    Args:
        at: TO_SERVICE keeps the request, so that the broker never heard of it; FROM_SERVICE keeps the
            answer, so that the broker has committed and the client does not know.
    """

    def __init__(self, at: Direction) -> None:
        self.at = at
        self.reached = threading.Event()
        self._decided = threading.Event()
        self._passes = False

    def pass_on(self) -> None:
        """Let it go on, late."""
        self._passes = True
        self._decided.set()

    def cut(self) -> None:
        """Throw it away, and its connection with it."""
        self._decided.set()

    def passes(self) -> bool:
        """Wait for the decision."""
        self.reached.set()
        self._decided.wait()
        return self._passes


class Proxy:
    """Listens on a free port of this machine and leads each connection to the service.

    Args:
        target_port: of the service, on this machine.
        pieces: how a stream is taken apart; ``kafka_messages`` where commits are to be held.
    """

    def __init__(self, target_port: int, pieces: Callable[[socket.socket], Iterator[bytes]] = chunks) -> None:
        self.target_port = target_port
        self.pieces = pieces
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self.refusing = False
        self.delay_seconds = 0.0
        self.bytes_per_second: float | None = None
        """What all connections together carry to the service; None: as much as they can."""
        self._free_at = 0.0
        self.swallowing: frozenset[Direction] = frozenset()
        self.pending_hold: HeldCommit | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self.refusing:
                _reset(client)
                continue
            try:
                service = socket.create_connection(("127.0.0.1", self.target_port), timeout=5)
            except OSError:
                _reset(client)
                continue
            service.settimeout(None)
            connection = _Connection(self, client, service)
            with self._lock:
                self._connections.add(connection)
            connection.start()

    def forget(self, connection: "_Connection") -> None:
        """It has ended."""
        with self._lock:
            self._connections.discard(connection)

    def cut(self) -> None:
        """Reset every connection; new ones are let in."""
        for connection in self._all():
            connection.end()

    def close(self) -> None:
        """End everything."""
        self.refusing = True
        self._listener.close()
        self.cut()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Reset every connection, and refuse new ones until the end of the block."""
        self.refusing = True
        try:
            self.cut()
            yield
        finally:
            self.refusing = False

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Whatever is passed on waits so long first, until the end of the block."""
        self.delay_seconds = seconds
        try:
            yield
        finally:
            self.delay_seconds = 0.0

    def seconds_for(self, size: int) -> float:
        """How long a message waits until the way to the service has carried it and those before it."""
        if self.bytes_per_second is None:
            return 0.0
        with self._lock:
            now = monotonic()
            self._free_at = max(now, self._free_at) + size / self.bytes_per_second
            return self._free_at - now

    @contextmanager
    def half_open(self, directions: frozenset[Direction]) -> Iterator[None]:
        """Swallow what goes these ways, and keep the sockets open.

        A connection that was there in the meantime stays so until one side closes it, as it is when a
        router between the two has forgotten it; those made afterwards work.
        """
        self.swallowing = directions
        for connection in self._all():
            connection.swallows = directions
        try:
            yield
        finally:
            self.swallowing = frozenset()

    def hold_commit(self, at: Direction) -> HeldCommit:
        """Keep the next commit that comes by (with ``kafka_messages`` only)."""
        self.pending_hold = HeldCommit(at)
        return self.pending_hold

    def claim_held_commit(self, at: Direction) -> HeldCommit | None:
        """The hold that waits at this edge, for the first that asks."""
        with self._lock:
            hold = self.pending_hold
            if hold is None or hold.at is not at:
                return None
            self.pending_hold = None
            return hold

    def _all(self) -> list["_Connection"]:
        with self._lock:
            return list(self._connections)


class _Connection:
    """One client's connection and the one to the service, with a thread for each way."""

    def __init__(self, proxy: Proxy, client: socket.socket, service: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._service = client, service
        self._open_ways = 2
        self._lock = threading.Lock()
        self.swallows = proxy.swallowing
        self._commits: dict[int, HeldCommit] = {}
        """Holds of answers, by the correlation id that they will have."""

    def start(self) -> None:
        """Begin to pass on."""
        ways = {Direction.TO_SERVICE: (self._client, self._service)}
        ways[Direction.FROM_SERVICE] = (self._service, self._client)
        for direction, (source, sink) in ways.items():
            threading.Thread(target=self._run, args=(direction, source, sink), name="proxied", daemon=True).start()

    def end(self) -> None:
        """Wake both threads, which then end it: shutting the reading side tells nobody but them."""
        for each in (self._client, self._service):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RD)

    def _run(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            self._pump(direction, source, sink)
        self.end()
        with self._lock:
            self._open_ways -= 1
            last = not self._open_ways
        if last:
            self._proxy.forget(self)
            _reset(self._client)
            _reset(self._service)

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        patience = threading.Event()
        for message in self._proxy.pieces(source):
            if self._proxy.delay_seconds:
                patience.wait(self._proxy.delay_seconds)
            if direction in self.swallows:
                continue
            if direction is Direction.TO_SERVICE:
                patience.wait(self._proxy.seconds_for(len(message)))
            hold = self._hold_of(direction, message)
            if hold is not None and not hold.passes():
                return
            sink.sendall(message)

    def _hold_of(self, direction: Direction, message: bytes) -> HeldCommit | None:
        if direction is Direction.FROM_SERVICE:
            return self._commits.pop(correlation_id(message, _LENGTH_BYTES), None) if self._commits else None
        if self._proxy.pending_hold is None or not is_commit(message):
            return None
        hold = self._proxy.claim_held_commit(Direction.FROM_SERVICE)
        if hold is not None:
            self._commits[correlation_id(message, _LENGTH_BYTES + 4)] = hold
            return None
        return self._proxy.claim_held_commit(Direction.TO_SERVICE)


def is_commit(request: bytes) -> bool:
    """Whether this is a request to commit a transaction (not to abort one)."""
    if len(request) < _LENGTH_BYTES + 8:
        return False
    key, version = struct.unpack_from(">hh", request, _LENGTH_BYTES)
    return bool(key == END_TXN and request[-2 if version >= _END_TXN_FLEXIBLE_FROM else -1])


def correlation_id(message: bytes, offset: int) -> int:
    """The number that ties an answer to its request."""
    return int(struct.unpack_from(">i", message, offset)[0])


def _reset(connection: socket.socket) -> None:
    """Close it the hard way: the other side gets a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
