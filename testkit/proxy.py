"""A TCP proxy that injects network faults between the product and a service, and can hold back one Kafka commit.

It knows just enough of Kafka's protocol to recognize a commit. Each message starts with its length (4 bytes).
A request continues with its API key (2 bytes), API version (2) and correlation id (4); a response continues
with the correlation id. See https://kafka.apache.org/protocol.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from time import monotonic, sleep

END_TXN = 26
"""API key of the request that commits or aborts a transaction."""
_END_TXN_FLEXIBLE_FROM = 3
"""From this version of EndTxn on, a byte of tagged fields follows the byte that selects commit or abort."""
_LENGTH_BYTES = 4
_CHUNK_BYTES = 65536


class Direction(Enum):
    """Direction in which bytes travel."""

    TO_SERVICE = "to the service"
    FROM_SERVICE = "from the service"


BOTH_DIRECTIONS = frozenset(Direction)


def chunks(source: socket.socket) -> Iterator[bytes]:
    """Yield the bytes that arrive on a connection, chunk by chunk."""
    while data := source.recv(_CHUNK_BYTES):
        yield data


def kafka_messages(source: socket.socket) -> Iterator[bytes]:
    """Yield the bytes that arrive on a Kafka connection, one whole message at a time, length prefix included."""
    buffer = bytearray()
    for chunk in chunks(source):
        buffer += chunk
        while len(buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int(struct.unpack_from(">i", buffer)[0])
            if len(buffer) < end:
                break
            yield bytes(buffer[:end])
            del buffer[:end]


def ask_kafka(address: str, request: bytes, timeout: float = 5.0) -> bytes:
    """Send a request of Kafka's protocol to a broker, and return its response, length prefix included.

    Args:
        address: host and port of the broker.
        request: with its header, without its length.
        timeout: for the connection and for each read, in seconds.

    Raises:
        OSError: the broker cannot be reached.
        StopIteration: it ends the connection without a response.
    """
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        return next(kafka_messages(connection))


class HeldCommit:
    """A commit that the proxy holds back until the test forwards or drops it.

    Args:
        direction: TO_SERVICE holds the request, so the broker has not received it; FROM_SERVICE holds the
            response, so the broker has committed and the client does not know.
    """

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.reached = threading.Event()
        """Set when the proxy holds the commit."""
        self._decided = threading.Event()
        self._forwarded = False

    def forward(self) -> None:
        """Deliver the held message."""
        self._forwarded = True
        self._decided.set()

    def drop(self) -> None:
        """Discard the held message and close its connection."""
        self._decided.set()

    def wait_for_decision(self) -> bool:
        """Wait until the test decides; return whether to forward the message."""
        self.reached.set()
        self._decided.wait()
        return self._forwarded


class Proxy:
    """Forwards connections from a local port to a service on this machine.

    Args:
        target_port: port of the service; may be changed while the proxy runs.
        split: splits a stream into the pieces that are forwarded; ``kafka_messages`` to hold commits.
        address: host and port to listen on. It also connects from this host.
    """

    def __init__(
        self,
        target_port: int,
        split: Callable[[socket.socket], Iterator[bytes]] = chunks,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.target_port = target_port
        self.split = split
        self.host = address[0]
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self.refusing = False
        self.delay_seconds = 0.0
        self.bytes_per_second: float | None = None
        """Bandwidth to the service, shared by all connections; None means unlimited."""
        self._link_free_at = 0.0
        self.discarding: frozenset[Direction] = frozenset()
        self._pending_hold: HeldCommit | None = None
        self.change: Callable[[int, bytes], bytes] | None = None
        """Changes each answer of Kafka: takes the API key of the request and the message. Set it before the service is
        used; needs ``kafka_messages`` as ``split``."""
        self._listener = socket.create_server(address, backlog=128)
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
                target = ("127.0.0.1", self.target_port)
                service = socket.create_connection(target, timeout=5, source_address=(self.host, 0))
            except OSError:
                _reset(client)
                continue
            service.settimeout(None)
            connection = _Connection(self, client, service)
            with self._lock:
                self._connections.add(connection)
            connection.start()

    def forget(self, connection: "_Connection") -> None:
        """Remove a connection that has ended."""
        with self._lock:
            self._connections.discard(connection)

    def cut(self) -> None:
        """Reset every connection; accept new ones."""
        for connection in self._all():
            connection.end()

    def close(self) -> None:
        """Stop listening and reset every connection."""
        self.refusing = True
        self._listener.close()
        self.cut()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Reset every connection and refuse new ones within the block."""
        self.refusing = True
        try:
            self.cut()
            yield
        finally:
            self.refusing = False

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Delay every message by this many seconds within the block."""
        self.delay_seconds = seconds
        try:
            yield
        finally:
            self.delay_seconds = 0.0

    def transmission_seconds(self, size: int) -> float:
        """Return how long the limited link takes to carry a message and those queued before it."""
        if self.bytes_per_second is None:
            return 0.0
        with self._lock:
            now = monotonic()
            self._link_free_at = max(now, self._link_free_at) + size / self.bytes_per_second
            return self._link_free_at - now

    @contextmanager
    def half_open(self, directions: frozenset[Direction]) -> Iterator[None]:
        """Discard what travels in these directions, and keep the sockets open.

        Connections that exist within the block stay half open until one side closes them, as when a router
        has lost their state. Connections made afterwards work.
        """
        self.discarding = directions
        for connection in self._all():
            connection.discards = directions
        try:
            yield
        finally:
            self.discarding = frozenset()

    def hold_commit(self, direction: Direction) -> HeldCommit:
        """Hold the next commit request or response; needs ``kafka_messages`` as ``split``."""
        self._pending_hold = HeldCommit(direction)
        return self._pending_hold

    @property
    def has_pending_hold(self) -> bool:
        """Whether the next commit is to be held."""
        return self._pending_hold is not None

    def cancel_hold(self) -> None:
        """Hold no commit any more."""
        self._pending_hold = None

    def claim_held_commit(self, direction: Direction) -> HeldCommit | None:
        """Return the pending hold in this direction, once."""
        with self._lock:
            hold = self._pending_hold
            if hold is None or hold.direction is not direction:
                return None
            self._pending_hold = None
            return hold

    def _all(self) -> list["_Connection"]:
        with self._lock:
            return list(self._connections)


class _Connection:
    """A client's connection and its connection to the service, with a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, service: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._service = client, service
        self._open_directions = 2
        self._lock = threading.Lock()
        self.discards = proxy.discarding
        self._held_responses: dict[int, HeldCommit] = {}
        """Holds of responses, by the correlation id of their requests."""
        self._api_keys: dict[int, int] = {}
        """Of the requests without a response, by their correlation ids, if responses are changed."""

    def start(self) -> None:
        """Start forwarding."""
        sockets = {
            Direction.TO_SERVICE: (self._client, self._service),
            Direction.FROM_SERVICE: (self._service, self._client),
        }
        for direction, (source, sink) in sockets.items():
            threading.Thread(target=self._run, args=(direction, source, sink), name="proxied", daemon=True).start()

    def end(self) -> None:
        """Wake both threads, which then close the sockets. Shutting the read side sends nothing to the peers."""
        for each in (self._client, self._service):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RD)

    def _run(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            self._pump(direction, source, sink)
        self.end()
        with self._lock:
            self._open_directions -= 1
            last = not self._open_directions
        if last:
            self._proxy.forget(self)
            _reset(self._client)
            _reset(self._service)

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        for message in self._proxy.split(source):
            sleep(self._proxy.delay_seconds)
            if direction in self.discards:
                continue
            if direction is Direction.TO_SERVICE:
                sleep(self._proxy.transmission_seconds(len(message)))
            hold = self._hold_of(direction, message)
            if hold is not None and not hold.wait_for_decision():
                return
            sink.sendall(self._changed(direction, message))

    def _changed(self, direction: Direction, message: bytes) -> bytes:
        if self._proxy.change is None:
            return message
        if direction is Direction.FROM_SERVICE:
            api_key = self._api_keys.pop(correlation_id(message, _LENGTH_BYTES), None)
            return message if api_key is None else self._proxy.change(api_key, message)  # None: asked before
        (api_key,) = struct.unpack_from(">h", message, _LENGTH_BYTES)
        self._api_keys[correlation_id(message, _LENGTH_BYTES + 4)] = api_key
        return message

    def _hold_of(self, direction: Direction, message: bytes) -> HeldCommit | None:
        if direction is Direction.FROM_SERVICE:
            if not self._held_responses:
                return None
            return self._held_responses.pop(correlation_id(message, _LENGTH_BYTES), None)
        if not self._proxy.has_pending_hold or not is_commit(message):
            return None
        hold = self._proxy.claim_held_commit(Direction.FROM_SERVICE)
        if hold is not None:
            self._held_responses[correlation_id(message, _LENGTH_BYTES + 4)] = hold
            return None
        return self._proxy.claim_held_commit(Direction.TO_SERVICE)


def is_commit(request: bytes) -> bool:
    """Return whether a request commits a transaction, rather than aborting it or doing anything else."""
    if len(request) < _LENGTH_BYTES + 8:
        return False
    key, version = struct.unpack_from(">hh", request, _LENGTH_BYTES)
    return bool(key == END_TXN and request[-2 if version >= _END_TXN_FLEXIBLE_FROM else -1])


def correlation_id(message: bytes, offset: int) -> int:
    """Return the number that a response shares with its request."""
    return int(struct.unpack_from(">i", message, offset)[0])


def _reset(connection: socket.socket) -> None:
    """Close a connection with a TCP reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
