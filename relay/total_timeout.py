"""A limit on how long a whole HTTP response may take; ``requests`` limits each read only."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socket import SHUT_RDWR, socket
from time import monotonic

TICK_SECONDS = 0.5
"""How often deadlines are checked, so a response may take this much longer."""


@dataclass(slots=True)
class _Read:
    deadline: float
    sock: socket | None = None


class TotalTimeout:
    """Shuts down sockets whose response is late: the thread that reads one then sees the end of the stream.

    Safe to use from many threads. One background thread, started when first needed, serves them all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[int, _Read] = {}
        """By the id of the thread that reads."""
        self._ticker: threading.Thread | None = None

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Limit the response that this thread reads inside the block.

        Args:
            deadline: by the monotonic clock.
        """
        thread = threading.get_ident()
        with self._lock:
            self._reads[thread] = _Read(deadline)
        try:
            yield
        finally:
            with self._lock:
                del self._reads[thread]

    def watch(self, sock: socket | None) -> None:
        """Shut down this socket at the deadline of the block that the calling thread is in."""
        with self._lock:
            read = self._reads.get(threading.get_ident())
            if read is None or sock is None:
                return
            read.sock = sock
            if self._ticker is None:
                self._ticker = threading.Thread(target=self._tick, name="http-timeout", daemon=True)
                self._ticker.start()

    def _tick(self) -> None:
        pause = threading.Event()
        while not pause.wait(TICK_SECONDS):
            with self._lock:  # held while shutting down: a socket whose reader has left may serve the next request
                for read in self._reads.values():
                    if read.sock is not None and monotonic() > read.deadline:
                        _shut_down(read.sock)


def _shut_down(sock: socket) -> None:
    try:
        sock.shutdown(SHUT_RDWR)
    except OSError:
        return
