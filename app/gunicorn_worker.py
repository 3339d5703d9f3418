"""gunicorn's threaded worker, protected against slow clients, and silent about what clients send.

gunicorn's own worker occupies a thread while a client is slow to send its request or to read its response, and quotes
malformed input in responses and log lines. Here a connection waits in the poller until its request is complete, and
again until its response is read, so a thread is occupied by the application only. Requests with a live secret have
threads of their own: probes, metrics and refusals neither wait for them nor delay them.

This is all that is used of gunicorn's internals. ``pyproject.toml`` bounds the version; check this list before raising
the bound.

Overridden in ``ThreadWorker``:

- ``init_process``, ``get_thread_pool``: two thread pools instead of one.
- ``accept``: the connection goes to the poller; if there are too many, others are closed.
- ``wait_for_and_dispatch_events``: returns at least four times a second, so that deadlines are checked, and hands
  complete requests to the threads.
- ``murder_keepalived``, ``_cap_keepalive``: apply to every connection, whatever it waits for.
- ``handle``: turns one complete request into a response.

Used unchanged:

- of ``ThreadWorker``: ``run``, ``handle_exit``, ``handle_quit``, ``handle_request``, ``set_accept_enabled``,
  ``is_parent_alive``, ``method_queue``, ``poller``, ``tpool``, ``nr_conns``, ``worker_connections``, ``alive``,
  ``wsgi``.
- of the HTTP parser: ``Request``, ``SocketUnreader.take_buffered``, the classes in ``http.errors`` (in ``app/body.py``,
  too).
- of WSGI: ``start_response`` is a method of a ``Response`` with ``force_close`` (in ``app/factory.py``); the
  connection is ``environ["gunicorn.socket"]`` (in ``app/body.py``).
- ``glogging.Logger.setup`` and ``error_log``.

Not used: ``TConn``, ``Parser``, HTTP/2.
"""

import errno
import socket
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from http import HTTPStatus
from resource import RLIMIT_NOFILE, getrlimit
from selectors import EVENT_READ, EVENT_WRITE
from time import monotonic

import structlog
from gunicorn.http import errors  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from app.authentication import matching_label
from app.connection import MAX_DISCARDED_BYTES, MAX_HEAD_BYTES, Connection, State, secret_header
from app.dependencies import EXTENSION, WebhookDependencies
from app.metrics import CLOSED
from app.problem_details import CONTENT_TYPE, problem_json
from app.thread_pool import DaemonThreadPool
from config.logging import frames

log = structlog.get_logger(__name__)

UNAUTHENTICATED_THREADS = 2
"""For requests without a live secret."""
TICK_SECONDS = 0.25
STOPPING_KEEPALIVE_SECONDS = 2.0
LOG_INTERVAL_SECONDS = 10.0
"""Between two log lines of one kind that any client can cause."""
RESERVED_DESCRIPTORS = 200
"""File descriptors of the process for other things than clients."""
CLOSED_SHARE = 32
"""If there are too many connections, one in this many is closed at once."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_STATUSES = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """Handles requests in threads, and everything else in its poller."""

    def init_process(self) -> None:
        """Initialize the worker in its own process."""
        self._connections: set[Connection] = set()
        self._paused: list[Connection] = []
        """Trickling connections, not read again before the next tick."""
        self._complete: list[Connection] = []
        """With a complete request. The threads get it after the poller's work, or they would compete for the GIL."""
        self._answered: deque[Connection] = deque()
        """With a response to send."""
        self._is_poller_called = False
        self._ready_callback = partial(self._guard, self._on_ready)
        self._server_addresses: dict[socket.socket, object] = {}
        self._next_tick = 0.0
        self._unauthenticated_pool = DaemonThreadPool("unauthenticated", UNAUTHENTICATED_THREADS)
        max_descriptors = getrlimit(RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS
        self._max_connections = max(1, min(self.cfg.worker_connections, max_descriptors))
        self.worker_connections: int = self._max_connections
        self._next_log: dict[str, float] = {}
        super().init_process()

    def get_thread_pool(self) -> DaemonThreadPool:
        """The threads for requests with a live secret."""
        return DaemonThreadPool("request", self.cfg.threads)

    # Accepting ----------------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """Accept waiting connections; with few connections only one at a time, so that the processes share them."""
        for _ in range(1 + self.nr_conns // 16):
            if self.nr_conns >= self.worker_connections and not self._close_some():
                return
            try:
                self._add(*listener.accept(), listener)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:  # the system allows fewer than expected: limit to that for now
                    self.worker_connections = max(1, self.nr_conns)

    def _add(self, client_socket: socket.socket, client: object, listener: socket.socket) -> None:
        if listener not in self._server_addresses:
            self._server_addresses[listener] = listener.getsockname()
        connection = Connection(client_socket, client, self._server_addresses[listener])
        self._watch(connection, EVENT_READ)
        self._connections.add(connection)
        self.nr_conns += 1

    def _close_some(self) -> bool:
        """Close the least valuable connections; returns whether there were any."""
        waiting = [c for c in self._connections if c.state is not State.HANDLING]
        waiting.sort(key=lambda c: (c.is_authenticated, c.state, c.deadline))
        for connection in waiting[: 1 + len(waiting) // CLOSED_SHARE]:
            CLOSED.labels("too_many").inc()
            self._close(connection)
        if waiting:
            self._log_limited("too_many_connections", f"closed some of {self.worker_connections} connections: too many")
        return bool(waiting)

    # Waiting ------------------------------------------------------------------------------------------

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, at most until the next tick, and handle them."""
        super().wait_for_and_dispatch_events(min(timeout, TICK_SECONDS) if self._connections else timeout)
        self._start_threads()

    def murder_keepalived(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """Handle connections whose deadline has passed; with ``force``, close all."""
        now = monotonic()
        if now < self._next_tick and not force:
            return
        self._next_tick = now + TICK_SECONDS
        self.worker_connections = min(self._max_connections, self.worker_connections + 16)
        if self.nr_conns >= self.worker_connections:  # accept() is not called now, and may have found none to close
            self._close_some()
        self._resume_paused()
        for connection in list(self._connections):
            if force:
                self._close(connection)
            elif connection.deadline <= now and connection.state is not State.HANDLING:
                self._guard(self._on_deadline, connection)
        self._start_threads()

    def _resume_paused(self) -> None:
        paused, self._paused = self._paused, []
        for connection in paused:
            is_waiting = not connection.watched_events and connection.state is not State.HANDLING
            if is_waiting and connection in self._connections:
                self._guard(self._watch, connection, EVENT_READ)

    def _cap_keepalive(self, deadline: float) -> None:
        for connection in self._connections:
            if connection.state is State.IDLE:
                connection.deadline = min(connection.deadline, deadline)

    def _watch(self, connection: Connection, events: int) -> None:
        """Call ``_on_ready`` on these events."""
        if events != connection.watched_events:
            change = self.poller.modify if connection.watched_events else self.poller.register
            change(connection, events, self._ready_callback)
            connection.watched_events = events

    def _unwatch(self, connection: Connection) -> None:
        if connection.watched_events:
            self.poller.unregister(connection)
            connection.watched_events = 0

    def _guard(self, action: Callable[..., None], connection: Connection, *args: object) -> None:
        """Run an action on a connection; an error closes the connection, and does not end the worker."""
        try:
            action(connection, *args)
        except OSError:
            self._close(connection)
        except Exception as error:  # noqa: BLE001 - see above
            self._log_unexpected(error)
            self._close(connection)

    def _on_ready(self, connection: Connection) -> None:
        """Read or send: the connection is ready for it."""
        if connection.state is State.HANDLING:
            self._unwatch(connection)
        elif connection.state is not State.SENDING:
            self._receive(connection)
        elif connection.flush():
            self._on_response(connection)

    def _receive(self, connection: Connection) -> None:
        if not connection.received and connection.state in (State.IDLE, State.HEAD):
            connection.begin_head()
        connection.receive()
        if connection.state is State.CLOSING:
            if connection.input_ended or connection.bytes_read > MAX_DISCARDED_BYTES:
                self._close(connection)
                return
        else:
            self._advance(connection)
        if connection.is_trickling and connection.state is not State.HANDLING and connection in self._connections:
            self._unwatch(connection)
            self._paused.append(connection)

    def _advance(self, connection: Connection) -> None:
        """Take the request if it is complete."""
        head = connection.head()
        if len(connection.received if head is None else head) > MAX_HEAD_BYTES:
            CLOSED.labels("head_too_large").inc()
            detail = f"The head is larger than {MAX_HEAD_BYTES} bytes"
            self._refuse(connection, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
            return
        if head is None:
            if connection.input_ended:
                self._close(connection)
            elif b"\n\n" in connection.received:  # lines end in LF alone: the parser will refuse them
                self._take(connection)
            return
        webhook = self._webhook
        secret = secret_header(head)
        connection.is_authenticated = webhook is None or matching_label(webhook.secrets, secret) is not None
        max_bytes = webhook.max_bytes if webhook else 0
        if (
            connection.is_authenticated
            and not connection.input_ended
            and connection.is_body_incomplete(head, max_bytes)
        ):
            if connection.state is not State.BODY:
                connection.begin_body(head)
            return
        self._take(connection)

    @cached_property
    def _webhook(self) -> WebhookDependencies | None:
        """None if another application runs, all of whose requests count as authenticated."""
        found: WebhookDependencies | None = getattr(self.wsgi, "extensions", {}).get(EXTENSION)
        return found

    def _take(self, connection: Connection) -> None:
        connection.state = State.HANDLING
        webhook = self._webhook if connection.is_authenticated else None
        connection.arrival = webhook.committer.expect(connection.arrived) if webhook else None
        self._complete.append(connection)

    def _start_threads(self) -> None:
        for connection in self._complete:
            pool = self.tpool if connection.is_authenticated else self._unauthenticated_pool
            pool.submit(self.handle, connection)
        self._complete.clear()

    def _on_deadline(self, connection: Connection) -> None:
        if connection.state is State.HEAD:
            connection.receive()  # the head may have arrived while the process was busy
            if connection.head() is not None:
                self._advance(connection)
                return
        if connection.state is State.BODY:  # the application responds that it is incomplete
            connection.input_ended = True
            self._take(connection)
        elif connection.state is State.HEAD and connection.received.strip(b"\r\n"):  # an empty line is no request
            CLOSED.labels("head_too_slow").inc()
            self._refuse(connection, HTTPStatus.REQUEST_TIMEOUT, "The head did not arrive completely in time")
        else:
            if connection.state is State.SENDING:
                CLOSED.labels("answer_not_taken").inc()
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._unwatch(connection)
            self.nr_conns -= 1
            connection.close()

    # Handling -----------------------------------------------------------------------------------------

    def handle(self, connection: Connection) -> None:
        """Create the response to one request; runs in a thread of a pool."""
        unreader = SocketUnreader(connection)
        connection.keep_alive = False
        try:
            request = Request(self.cfg, unreader, connection.client)
            if not connection.is_authenticated:
                request.force_close()
            connection.keep_alive = self.handle_request(request, connection) and not request.body.read(1)
            connection.keep_alive &= not connection.input_ended
        except (errors.NoMoreData, StopIteration):  # the client closed in the middle
            pass
        except Exception as error:  # noqa: BLE001 - the thread must survive every error
            connection.unsent.clear()
            self._respond_to_error(connection, error)
        if self._webhook and connection.arrival:
            self._webhook.committer.dismiss(connection.arrival)
        connection.received[:0] = unreader.take_buffered()
        self._hand_back(connection)

    def _hand_back(self, connection: Connection) -> None:
        """Leave the connection to the poller. One call is enough for all that are answered until it is followed."""
        self._answered.append(connection)
        if not self._is_poller_called:
            self._is_poller_called = True
            self.method_queue.defer(self._take_answered)

    def _take_answered(self) -> None:
        self._is_poller_called = False  # first: whoever is answered from now on calls again
        while self._answered:
            self._guard(self._on_response, self._answered.popleft())

    def _on_response(self, connection: Connection) -> None:
        """Send a response, then wait for the next request or the close; runs in the poller."""
        if connection not in self._connections:
            return
        if not connection.flush():
            if connection.state is not State.SENDING:
                connection.begin_sending()
                self._watch(connection, EVENT_WRITE)
            return
        if connection.keep_alive:
            connection.begin_idle(self.cfg.keepalive if self.alive else STOPPING_KEEPALIVE_SECONDS)
            self._watch(connection, EVENT_READ)
            if connection.received:
                self._advance(connection)
        elif connection.input_ended:
            self._close(connection)
        else:
            connection.begin_closing()
            self._watch(connection, EVENT_READ)

    def _respond_to_error(self, connection: Connection, error: Exception) -> None:
        """Respond to a request that did not reach the application, without quoting it."""
        if isinstance(error, errors.ParseException):
            status = _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST)
            connection.sendall(_problem_response(status, "The request is not valid HTTP/1.1"))
            self._log_limited("not_http", f"a request is not valid HTTP: {type(error).__name__}")
            return
        connection.sendall(_problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, "Unexpected error; see the log"))
        self._log_unexpected(error)

    def _refuse(self, connection: Connection, status: HTTPStatus, detail: str) -> None:
        """Respond to a request that no thread gets."""
        connection.keep_alive = False
        connection.sendall(_problem_response(status, detail))
        self._on_response(connection)

    def _log_limited(self, action: str, message: str) -> None:
        """Log what any client can cause, at a limited rate."""
        if monotonic() >= self._next_log.get(action, 0.0):
            self._next_log[action] = monotonic() + LOG_INTERVAL_SECONDS
            log.warning(message, action=action)

    def _log_unexpected(self, error: Exception) -> None:
        kind = type(error).__name__
        log.error("unexpected error in a request: %s", kind, action="unexpected", frames=frames(error))


def _problem_response(status: HTTPStatus, detail: str) -> bytes:
    body = problem_json(status, detail).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
