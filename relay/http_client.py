"""The relay's HTTP client: pooled, verified, never redirected, limited in time and size.

It reads nothing from the environment (proxies, ``.netrc``, certificates) and keeps no cookies. ``classify`` says what
a response means for the caller, and ``parse_retry_after`` reads ``Retry-After``; no other module does either.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from ssl import SSLContext, SSLError
from time import monotonic, time
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NameResolutionError
from urllib3.util.ssl_ import create_urllib3_context

from relay.total_timeout import TICK_SECONDS, TotalTimeout

CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 3.0, 10.0
RESPONSE_TIMEOUT_SECONDS = 15.0
"""For a whole response, headers included, however slowly it trickles in."""
MAX_REQUEST_SECONDS = CONNECT_TIMEOUT_SECONDS + RESPONSE_TIMEOUT_SECONDS + 2 * TICK_SECONDS
"""The longest that ``HttpClient.request`` takes with the default timeouts."""
MAX_BODY_BYTES = 65_536
MAX_RETRY_AFTER_SECONDS = 300.0
RETRIED_CLIENT_ERRORS = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS},
)
RETRY_AFTER_STATUSES = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""With any other status, ``Retry-After`` does not say when the same request may succeed."""
TIMED_OUT = "timed out"
TLS_FAILED = "TLS failed: check the server's certificate and HTTP_CA_LOCATION"
NAME_UNKNOWN = "the host name cannot be resolved"
_READ_ERRORS = (OSError, HTTPError, HTTPException, ValueError, OverflowError)
"""Every error of requests and urllib3 is one of these, or http.client's for a chunk of a size below -2^63."""

TOTAL_TIMEOUT = TotalTimeout()


class HttpResult(NamedTuple):
    """The outcome of a request: a response, or the reason why there is none."""

    status: int | None
    error: str | None = None
    """None after 2xx; otherwise what went wrong, without any content of the response."""
    retry_after_seconds: float | None = None
    """From a 429 or 503, capped at ``MAX_RETRY_AFTER_SECONDS``."""
    body: bytes | None = None
    """None if it was cut off or too large."""


class Outcome(Enum):
    """What a response means for the caller."""

    SUCCESS = "success"
    RETRY = "retry"
    """The same request may succeed later."""
    REJECTED = "rejected"
    """The same request will be rejected again."""


def classify(result: HttpResult) -> Outcome:
    """2xx succeeded; no response, 1xx, 408, 425, 429 and 5xx are retried; every other 3xx and 4xx is final."""
    status = result.status
    if status is None or not 200 <= status < 500 or status in RETRIED_CLIENT_ERRORS:
        return Outcome.RETRY
    return Outcome.SUCCESS if status < 300 else Outcome.REJECTED


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, capped; None if it is absent or malformed.

    Args:
        value: seconds or a date (RFC 9110, 10.2.3).
        now: seconds since the epoch.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value.strip()[:12]), MAX_RETRY_AFTER_SECONDS)
    try:
        date = parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)  # RFC 9110: every form is in GMT
        return min(max(0.0, date.timestamp() - now), MAX_RETRY_AFTER_SECONDS)
    except (ValueError, TypeError, OverflowError):
        return None


def parse_json(result: HttpResult) -> Any:
    """Decode the JSON body of a response.

    Raises:
        ValueError: the body was cut off, is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(result.body or b"")
    except RecursionError:
        raise ValueError("nested too deeply") from None


class HttpClient:
    """A connection pool for one service. Safe to use from many threads.

    Args:
        connections: number kept open; further ones are opened when needed and then closed.
        headers: sent with every request.
        response_timeout_seconds: limit for a whole response.
        ca_location: PEM file of certificate authorities trusted in addition to the public ones. It is read for each
            new connection, so a renewed file needs no restart.
        connect_timeout_seconds: limit for opening a connection.
    """

    def __init__(
        self,
        connections: int,
        headers: Mapping[str, str] | None = None,
        response_timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
        ca_location: str | None = None,
        *,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> None:
        session = _Session()
        session.trust_env = False
        # A load balancer's cookie would send every request to the same server behind it.
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.headers.update(headers or {})
        self._total_seconds = connect_timeout_seconds + response_timeout_seconds
        timeouts = connect_timeout_seconds, min(READ_TIMEOUT_SECONDS, response_timeout_seconds)
        self._send = partial(session.request, timeout=timeouts, allow_redirects=False, stream=True)
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(connections, ca_location))

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
        """Send a request and read its response, up to 64 KiB.

        Args:
            method: HTTP method.
            url: http or https.
            json: body to encode as JSON.
            data: other body: form fields or bytes.
            headers: sent besides those of every request.
            auth: user and password for HTTP Basic, sent as UTF-8.

        Returns:
            The response, or why there is none. Nothing is raised, and no text quotes the request or the response.
        """
        deadline = monotonic() + self._total_seconds
        basic = {"Authorization": f"Basic {b64encode(':'.join(auth).encode()).decode()}"} if auth else {}
        try:
            with (
                TOTAL_TIMEOUT.until(deadline),
                self._send(method, url, json=json, data=data, headers={**(headers or {}), **basic}) as response,
            ):
                return _result(response, _read_body(response, deadline))
        except _READ_ERRORS as error:
            return HttpResult(None, TIMED_OUT if monotonic() >= deadline else _reason(error))


def _result(response: requests.Response, body: bytes | None) -> HttpResult:
    status = response.status_code
    error = None if 200 <= status < 300 else f"HTTP {status}"
    retry_after = response.headers.get("Retry-After") if status in RETRY_AFTER_STATUSES else None
    return HttpResult(status, error, parse_retry_after(retry_after, time()), body)


def _read_body(response: requests.Response, deadline: float) -> bytes | None:
    """The whole body, so that its connection can be reused; None if it is cut off, late or too large."""
    body = b""
    try:
        while part := response.raw.read1(MAX_BODY_BYTES, decode_content=True):
            body += part
            if len(body) > MAX_BODY_BYTES:
                return None
    except _READ_ERRORS:
        return None
    return body if monotonic() < deadline else None  # the stream also ends where the total timeout shut the socket


def _reason(error: Exception) -> str:
    """Why there is no response, without the error's own text, which quotes the URL and parts of the response."""
    name = type(error).__name__
    if "Timeout" in name:
        return TIMED_OUT
    if isinstance(error, requests.exceptions.SSLError):
        return TLS_FAILED
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return NAME_UNKNOWN if isinstance(cause, NameResolutionError) else name


class _Session(requests.Session):
    """Ignores redirects: ``requests`` reads a redirect's whole body, however large, even if it does not follow it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, whatever the response says."""


def _trust_also(ca_location: str) -> SSLContext:
    """A context with these authorities; urllib3 adds the public ones.

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
    """Makes connections whose responses are subject to the total timeout."""

    def __init__(self, connections: int, ca_location: str | None) -> None:
        self._ca_location = ca_location
        super().__init__(pool_connections=4, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools with our connection classes."""
        super().init_poolmanager(*args, **kwargs)
        ca_location = self._ca_location

        class Connection(HTTPConnection):
            def getresponse(self) -> Any:
                TOTAL_TIMEOUT.watch(self.sock)
                return super().getresponse()

        class TLSConnection(HTTPSConnection):
            def connect(self) -> None:
                if ca_location:
                    self.ssl_context = _trust_also(ca_location)
                super().connect()

            def getresponse(self) -> Any:
                TOTAL_TIMEOUT.watch(self.sock)
                return super().getresponse()

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class TLSPool(HTTPSConnectionPool):
            ConnectionCls = TLSConnection

        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": TLSPool}
