"""gunicorn's threaded worker, made safe against clients that stall, and silent about what they sent.

gunicorn's own gives a connection a thread before it has sent anything, waits in that thread for the rest of the
request and for the client to take its answer, and quotes in answers and log lines what it cannot parse. Here a
connection waits in the poller until its request is there, and after its answer until that is taken; a thread is
occupied by what the application does, nothing else. Requests that show a live secret have threads of their own:
probes, metrics and refusals neither wait for them nor hold them up.

Of gunicorn's ``ThreadWorker`` (27.0, the bound in pyproject.toml: look at this list before raising it) are overridden

- ``init_process``, ``get_thread_pool``: two lanes of threads instead of one pool.
- ``accept``: the connection goes to the poller, and where there are too many, others are closed.
- ``wait_for_and_dispatch_events``: at least four looks a second at what is late.
- ``murder_keepalived``, ``_cap_keepalive``: of all connections, whatever they wait for.
- ``handle``: one request that is there, into an answer.

Used as they are: ``run``, ``handle_exit``, ``handle_quit``, ``handle_request``, ``set_accept_enabled``,
``is_parent_alive``, ``method_queue``, and of its HTTP part ``Request`` and ``SocketUnreader``. Not used: ``TConn``,
``Parser``, HTTP/2.
"""

import errno
import logging
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from resource import RLIMIT_NOFILE, getrlimit
from selectors import EVENT_READ, EVENT_WRITE
from time import monotonic
from typing import Any

import structlog
from gunicorn import glogging  # type: ignore[import-untyped]
from gunicorn.http import errors  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from app.authentication import matching_label
from app.connection import MAX_DISCARDED_BYTES, MAX_HEAD_BYTES, Connection, State, shown_secret
from app.dependencies import WebhookDependencies
from app.lane import Lane
from app.metrics import CLOSED
from app.problem_details import CONTENT_TYPE, problem_json
from config.logging import frames

log = structlog.get_logger(__name__)

OTHER_THREADS = 2
"""For whatever shows no live secret."""
TICK_SECONDS = 0.25
STOPPING_IDLE_SECONDS = 2.0
RARELY_SECONDS = 10.0
"""From one line in the log about what anybody can bring about to the next of its kind."""
OTHER_DESCRIPTORS = 200
"""Files and connections of the process that are no client's."""
GIVEN_UP_SHARE = 32
"""Where there are too many connections, one in so many is closed at once."""

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
        """Start the worker; called in its own process."""
        self._connections: set[Connection] = set()
        self._paused: list[Connection] = []
        self._on_event = partial(self._safely, self._look)
        self._server_addresses: dict[socket.socket, object] = {}
        self._next_tick = 0.0
        self._others = Lane("other", OTHER_THREADS)
        self._most = max(1, min(self.cfg.worker_connections, getrlimit(RLIMIT_NOFILE)[0] - OTHER_DESCRIPTORS))
        self.worker_connections: int = self._most
        self._next_lines: dict[str, float] = {}
        super().init_process()

    def get_thread_pool(self) -> Lane:
        """The threads of requests that show a live secret."""
        return Lane("request", self.cfg.threads)

    # Accepting ----------------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """Take in connections that wait: few at once where there are few, so that the processes share them."""
        for _ in range(1 + self.nr_conns // 16):
            if self.nr_conns >= self.worker_connections and not self._make_room():
                return
            try:
                self._add(*listener.accept(), listener)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:  # fewer than expected: this is the limit for now
                    self.worker_connections = max(1, self.nr_conns)

    def _add(self, plain: socket.socket, client: object, listener: socket.socket) -> None:
        if listener not in self._server_addresses:
            self._server_addresses[listener] = listener.getsockname()
        connection = Connection(plain, client, self._server_addresses[listener])
        self._watch(connection, EVENT_READ)
        self._connections.add(connection)
        self.nr_conns += 1

    def _make_room(self) -> bool:
        """Close some of the connections that others can best do without; whether there were any."""
        waiting = [c for c in self._connections if c.state is not State.IN_HAND]
        waiting.sort(key=lambda c: (c.is_sender, c.state, c.deadline))
        for connection in waiting[: 1 + len(waiting) // GIVEN_UP_SHARE]:
            CLOSED.labels("too_many").inc()
            self._close(connection)
        if waiting:
            self._rarely("too_many_connections", f"too many connections: some of {self.worker_connections} were closed")
        return bool(waiting)

    # Waiting ------------------------------------------------------------------------------------------

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for what happens next, and do what follows from it."""
        super().wait_for_and_dispatch_events(min(timeout, TICK_SECONDS) if self._connections else timeout)

    def murder_keepalived(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's
        """Give up connections whose time is over, or all."""
        now = monotonic()
        if now < self._next_tick and not force:
            return
        self._next_tick = now + TICK_SECONDS
        self.worker_connections = min(self._most, self.worker_connections + 16)  # what was short may be back
        if self.nr_conns >= self.worker_connections:  # nothing is accepted, and there may have been none to close
            self._make_room()
        paused, self._paused = self._paused, []
        for connection in paused:
            if connection in self._connections and not connection.watched and connection.state is not State.IN_HAND:
                self._safely(self._watch, connection, EVENT_READ)
        for connection in list(self._connections):
            if force:
                self._close(connection)
            elif connection.deadline <= now and connection.state is not State.IN_HAND:
                self._safely(self._late, connection)

    def _cap_keepalive(self, deadline: float) -> None:
        for connection in self._connections:
            if connection.state is State.IDLE:
                connection.deadline = min(connection.deadline, deadline)

    def _watch(self, connection: Connection, events: int) -> None:
        """Have it looked at once one of these events happens."""
        if events != connection.watched:
            change = self.poller.modify if connection.watched else self.poller.register
            change(connection, events, self._on_event)
            connection.watched = events

    def _ignore(self, connection: Connection) -> None:
        if connection.watched:
            self.poller.unregister(connection)
            connection.watched = 0

    def _safely(self, action: Callable[..., None], connection: Connection, *args: object) -> None:
        """Do something with a connection: whatever fails ends that connection, not the worker."""
        try:
            action(connection, *args)
        except OSError:
            self._close(connection)
        except Exception as error:  # noqa: BLE001 - see above
            self._unexpected(error)
            self._close(connection)

    def _look(self, connection: Connection) -> None:
        """Something has come, or can be sent."""
        if connection.state is State.IN_HAND:
            self._ignore(connection)
        elif connection.state is not State.SENDING:
            self._receive(connection)
        elif connection.flush():
            self._answered(connection)

    def _receive(self, connection: Connection) -> None:
        if not connection.received and connection.state in (State.IDLE, State.HEAD):
            connection.begin_head()
        connection.receive()
        if connection.state is State.CLOSING:
            if connection.has_ended or connection.bytes_seen > MAX_DISCARDED_BYTES:
                self._close(connection)
                return
        else:
            self._advance(connection)
        if connection.is_dripping and connection.state is not State.IN_HAND and connection in self._connections:
            self._ignore(connection)
            self._paused.append(connection)

    def _advance(self, connection: Connection) -> None:
        """Hand the request over once it is there."""
        head = connection.head()
        if len(connection.received if head is None else head) > MAX_HEAD_BYTES:
            CLOSED.labels("head_too_large").inc()
            detail = f"The head has more than {MAX_HEAD_BYTES} bytes"
            self._refuse(connection, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
            return
        if head is None:
            if connection.has_ended:
                self._close(connection)
            elif b"\n\n" in connection.received:  # lines that end in LF alone: the parser says what is wrong
                self._hand_over(connection)
            return
        door = self._door
        connection.is_sender = door is None or matching_label(door.secrets, shown_secret(head)) is not None
        max_bytes = door.max_bytes if door else 0
        if connection.is_sender and not connection.has_ended and connection.lacks_body(head, max_bytes):
            if connection.state is not State.BODY:
                connection.begin_body(head)
            return
        self._hand_over(connection)

    @property
    def _door(self) -> WebhookDependencies | None:
        """What the webhook works with; None with another application, whose every request counts as a sender's."""
        found: WebhookDependencies | None = getattr(self.wsgi, "extensions", {}).get("door")
        return found

    def _hand_over(self, connection: Connection) -> None:
        connection.state = State.IN_HAND
        lane = self.tpool if connection.is_sender else self._others
        lane.submit(self.handle, connection)

    def _late(self, connection: Connection) -> None:
        """Its time is over."""
        if connection.state is State.HEAD:
            connection.receive()  # it may have come while the process got no time to look
            if connection.head() is not None:
                self._advance(connection)
                return
        if connection.state is State.BODY:  # the application says so
            connection.has_ended = True
            self._hand_over(connection)
        elif connection.state is State.HEAD and connection.received.strip(b"\r\n"):  # an empty line is no request
            CLOSED.labels("head_too_slow").inc()
            self._refuse(connection, HTTPStatus.REQUEST_TIMEOUT, "The head did not arrive whole in time")
        else:
            if connection.state is State.SENDING:
                CLOSED.labels("answer_not_taken").inc()
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._ignore(connection)
            self.nr_conns -= 1
            connection.close()

    # Handling -----------------------------------------------------------------------------------------

    def handle(self, connection: Connection) -> None:
        """Answer one request; runs in a thread of a lane."""
        unreader = SocketUnreader(connection)
        connection.is_kept = False
        try:
            request = Request(self.cfg, unreader, connection.client)
            if not connection.is_sender:  # nobody else has a use for a further request
                request.force_close()
            connection.is_kept = self.handle_request(request, connection) and not request.body.read(1)
            connection.is_kept &= not connection.has_ended
        except (errors.NoMoreData, StopIteration):  # the client closed in the middle
            pass
        except Exception as error:  # noqa: BLE001 - a thread must outlive whatever happens
            connection.unsent.clear()
            self._answer_error(connection, error)
        connection.received[:0] = unreader.take_buffered()
        connection.flush()
        self.method_queue.defer(self._safely, self._answered, connection)

    def _answered(self, connection: Connection) -> None:
        """An answer is ready, and sent as far as the client has taken it; called in the poller."""
        if connection not in self._connections:
            return
        if connection.unsent:
            if connection.state is not State.SENDING:
                connection.begin_sending()
                self._watch(connection, EVENT_WRITE)
            return
        if connection.is_kept:
            connection.begin_next(self.cfg.keepalive if self.alive else STOPPING_IDLE_SECONDS)
            self._watch(connection, EVENT_READ)
            if connection.received:
                self._advance(connection)
        elif connection.has_ended:
            self._close(connection)
        else:
            connection.begin_closing()
            self._watch(connection, EVENT_READ)

    def _answer_error(self, connection: Connection, error: Exception) -> None:
        """Answer what never reached the application, without a word of it."""
        if isinstance(error, errors.ParseException):
            status = _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST)
            connection.sendall(_problem(status, "The request is not valid HTTP/1.1"))
            self._rarely("not_http", f"a request is not valid HTTP: {type(error).__name__}")
            return
        detail = "Something unexpected went wrong here; it is in the log"
        connection.sendall(_problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail))
        self._unexpected(error)

    def _rarely(self, action: str, message: str) -> None:
        """Log what anybody can bring about, at most once in a while."""
        if monotonic() >= self._next_lines.get(action, 0.0):
            self._next_lines[action] = monotonic() + RARELY_SECONDS
            log.warning(message, action=action)

    def _unexpected(self, error: Exception) -> None:
        kind = type(error).__name__
        log.error("a request failed unexpectedly: %s", kind, action="unexpected", trace=frames(error))

    def _refuse(self, connection: Connection, status: HTTPStatus, detail: str) -> None:
        """Answer a request that is not handed over."""
        connection.is_kept = False
        connection.sendall(_problem(status, detail))
        connection.flush()
        self._answered(connection)


def _problem(status: HTTPStatus, detail: str) -> bytes:
    body = problem_json(status, detail).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class RoutedLogger(glogging.Logger):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's own lines, in the format of all others.

    Never below INFO: its lines for debugging quote what clients have sent, secrets included.
    """

    def setup(self, cfg: Any) -> None:
        """Leave the lines to the root logger."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(max(self.error_log.level, logging.INFO))
