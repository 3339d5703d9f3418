"""Time limits for what a sender still owes: a request that drips in must not hold a thread for ever."""

import contextlib
import socket
import threading
from time import monotonic

REQUEST_SECONDS = 10.0
"""Longest time for a whole request, head and body."""
TICK_SECONDS = 0.5


class Deadlines:
    """Shuts the reading side of sockets whose time is over; one thread for the whole process.

    A read that waits then ends, as if the sender had closed; an answer can still be written.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[socket.socket, float] = {}
        self._thread: threading.Thread | None = None

    def watch(self, connection: socket.socket) -> None:
        """Give the sender ``REQUEST_SECONDS`` from now."""
        with self._lock:
            self._watched[connection] = monotonic() + REQUEST_SECONDS
            if self._thread is None:  # not before: threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()

    def forget(self, connection: socket.socket) -> None:
        """All that was owed has arrived, or nobody waits for it any more."""
        with self._lock:
            self._watched.pop(connection, None)

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(TICK_SECONDS):
            now = monotonic()
            with self._lock:
                late = [connection for connection, deadline in self._watched.items() if deadline < now]
                for connection in late:
                    del self._watched[connection]
                    with contextlib.suppress(OSError):  # it is gone already
                        connection.shutdown(socket.SHUT_RD)


deadlines = Deadlines()
"""Of this process; the worker sets them, the body lifts them."""
