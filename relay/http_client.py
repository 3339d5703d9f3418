"""The one HTTP client of the relay: pooled, verified, never redirected, bounded in time and size; and its verdicts.

Nothing is taken from the environment (proxies, ``.netrc``, certificates), no cookie is kept. ``requests`` bounds each
read, not the answer: one that trickles, or never ends, is cut off here.
"""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from socket import SHUT_RDWR, socket
from ssl import SSLContext, SSLError
from time import monotonic, time
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NameResolutionError
from urllib3.util.ssl_ import create_urllib3_context

CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0
ANSWER_SECONDS = 15.0
"""For a whole answer, its head included, however it trickles."""
LONGEST_SECONDS = CONNECT_SECONDS + ANSWER_SECONDS + 1.0
"""What a call can take, the watch's own second included."""
ANSWER_BYTES = 65_536
RETRY_AFTER_CAP_SECONDS = 300.0
RETRIED_CLIENT_ERRORS = frozenset({408, 425, 429})
ASKS_FOR_PATIENCE = frozenset({429, 503})
"""Beside another status ``Retry-After`` says nothing of when the same request may succeed."""
TIMED_OUT = "no answer in time"
TLS_FAILED = "TLS fails: check its certificate, and HTTP_CA_LOCATION"
NAME_UNKNOWN = "its name cannot be resolved"


class HttpResult(NamedTuple):
    """What came back: a status, or what went wrong instead."""

    status: int | None
    error: str | None = None
    """None after 2xx; else what went wrong, without content of the answer."""
    retry_after_seconds: float | None = None
    """As the service asked for with 429 or 503, capped."""
    body: bytes | None = None
    """None if it broke off or was too large."""


class Outcome(Enum):
    """What an answer means for whoever asked."""

    DONE = "done"
    LATER = "later"
    """The same request may succeed later."""
    REFUSED = "refused"
    """The same request will be refused again."""


def classify(answer: HttpResult) -> Outcome:
    """2xx is done; no answer, be it 1xx, 408, 425, 429 and 5xx are for later; any other 3xx and 4xx refuses."""
    status = answer.status
    if status is None or not 200 <= status < 500 or status in RETRIED_CLIENT_ERRORS:
        return Outcome.LATER
    return Outcome.DONE if 200 <= status < 300 else Outcome.REFUSED


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Seconds named by a ``Retry-After`` header, a number or a date, capped; None if absent or unreadable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value.strip()[:12]), RETRY_AFTER_CAP_SECONDS)
    try:
        named = parsedate_to_datetime(value)
        named = named if named.tzinfo else named.replace(tzinfo=UTC)  # as RFC 9110 says of every form
        return min(max(0.0, named.timestamp() - now), RETRY_AFTER_CAP_SECONDS)
    except (ValueError, TypeError, OverflowError):
        return None


def json_of(answer: HttpResult) -> Any:
    """The JSON that an answer holds.

    Raises:
        ValueError: it broke off, is none, or is nested beyond reason.
    """
    try:
        return json.loads(answer.body or b"")
    except RecursionError:
        raise ValueError("nested beyond reason") from None


class Client:
    """A pool of connections to one service. Safe to use from many threads.

    Args:
        connections: kept open; more are made when needed, and closed.
        headers: sent with each request.
        answer_seconds: for a whole answer.
        ca_location: file of PEM certificates that are trusted besides the public authorities; read anew for each
            connection, so that a renewed one needs no restart.
    """

    def __init__(
        self,
        connections: int,
        headers: Mapping[str, str] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        ca_location: str | None = None,
    ) -> None:
        self._session = _Session()
        self._session.trust_env = False  # no proxies and no logins from the environment
        # No cookies: a balancer's would send every call to one of the servers behind it.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update(headers or {})
        self._answer_seconds = answer_seconds
        self._watch = _TotalTimeout()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self._watch, connections, ca_location))

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        data: Mapping[str, str] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> HttpResult:
        """Ask, and read the answer: at most 64 KiB of it, for as long as a whole answer may take.

        Args:
            method: of HTTP.
            url: http or https.
            json: the body, encoded as JSON.
            data: the body otherwise: a form, or bytes.
            headers: besides those of each request.
            auth: user and password of HTTP Basic, sent in UTF-8.

        Returns:
            The answer; whatever goes wrong is in it, nothing is raised, and no text of it quotes the request.
        """
        until = monotonic() + CONNECT_SECONDS + self._answer_seconds
        timeouts = (CONNECT_SECONDS, min(READ_SECONDS, self._answer_seconds))
        login = {"Authorization": f"Basic {b64encode(':'.join(auth).encode()).decode()}"} if auth else {}
        try:
            with (
                self._watch.until(until),
                self._session.request(
                    method,
                    url,
                    json=json,
                    data=data,
                    headers={**(headers or {}), **login},
                    timeout=timeouts,
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                body = _body(response, until)
                status = response.status_code
                named = response.headers.get("Retry-After") if status in ASKS_FOR_PATIENCE else None
        except (OSError, HTTPError, HTTPException, ValueError) as error:  # as every error of requests and urllib3 is
            return HttpResult(None, TIMED_OUT if monotonic() >= until else _reason(error))
        wrong = None if 200 <= status < 300 else f"HTTP {status}"
        return HttpResult(status, wrong, retry_after_seconds(named, time()), body)


def _reason(error: Exception) -> str:
    """Why there is no answer. The error's own text is left out: it quotes the URL, and parts of the answer."""
    name = type(error).__name__
    if "Timeout" in name:
        return TIMED_OUT
    if isinstance(error, requests.exceptions.SSLError):
        return TLS_FAILED
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return NAME_UNKNOWN if isinstance(cause, NameResolutionError) else name


def _body(response: requests.Response, until: float) -> bytes | None:
    """The whole of the answer, after which its connection can be used again; None beyond a bound."""
    body = b""
    try:
        while part := response.raw.read1(ANSWER_BYTES, decode_content=True):
            body += part
            if len(body) > ANSWER_BYTES:
                return None
    except (OSError, HTTPError, HTTPException, ValueError):
        return None
    return body if monotonic() < until else None  # at the end of a socket that was shut


class _Session(requests.Session):
    """Looks for no redirects: even where none is followed, ``requests`` reads their whole body, however large."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, whatever the answer says."""


class _TotalTimeout:
    """Ends answers that take too long, by shutting their socket: whoever reads it, then reads its end."""

    def __init__(self) -> None:
        self._here = threading.local()
        self._lock = threading.Lock()
        self._sockets: dict[int, tuple[float, socket]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Watch the socket that this thread reads from in the block."""
        self._here.deadline = deadline
        try:
            yield
        finally:
            with self._lock:
                self._sockets.pop(threading.get_ident(), None)

    def reads(self, sock: socket | None) -> None:
        """This thread begins to read an answer from the socket."""
        if sock is None:
            return
        with self._lock:
            self._sockets[threading.get_ident()] = (self._here.deadline, sock)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(0.5):
            with self._lock:  # held while shutting, so that no socket is shut that its reader has left
                for deadline, sock in self._sockets.values():
                    if monotonic() > deadline:
                        _shut(sock)


def _shut(sock: socket) -> None:
    try:
        sock.shutdown(SHUT_RDWR)
    except OSError:
        return


def _trusting(ca_location: str) -> SSLContext:
    """What a connection trusts besides the public authorities, which are added to it.

    Raises:
        SSLError: the file cannot be read, or holds no certificate.
    """
    context = create_urllib3_context()
    try:
        context.load_verify_locations(ca_location)
    except OSError as error:
        raise SSLError(type(error).__name__) from None
    return context


class _Adapter(HTTPAdapter):
    """Connections that tell the watch when the reading of an answer begins."""

    def __init__(self, watch: _TotalTimeout, connections: int, ca_location: str | None) -> None:
        self._watch, self._ca_location = watch, ca_location
        super().__init__(pool_connections=4, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **given: Any) -> None:
        """Make the pools, with watched connections."""
        super().init_poolmanager(*args, **given)
        watch, ca_location = self._watch, self._ca_location

        class Plain(HTTPConnection):
            def getresponse(self) -> Any:
                watch.reads(self.sock)
                return super().getresponse()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                if ca_location:
                    self.ssl_context = _trusting(ca_location)
                super().connect()

            def getresponse(self) -> Any:
                watch.reads(self.sock)
                return super().getresponse()

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
