"""How the simulator responds: named behaviours, one for each request."""

import re
import threading
import time
from collections.abc import Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

BEHAVIOURS = """\
ok                 responds normally
slow:SECONDS       responds normally, after this many seconds
hang               reads the request and does not respond
drop               reads the request and closes the connection
cut                closes the connection in the middle of the response
endless            responds 200 with a body that never ends
trickle            sends a header that never ends, byte by byte
redirect           responds 302
STATUS             responds with this status, such as 500
STATUS:SECONDS     the same with Retry-After in seconds, such as 429:5
STATUS@SECONDS     the same with Retry-After as a date this many seconds from now
"""
BEHAVIOUR = re.compile(
    r"ok|hang|drop|cut|endless|trickle|redirect|slow:\d+(\.\d+)?|[2-5]\d\d(:.*|@-?\d+(\.\d+)?)?", re.ASCII
)
TRICKLE_SECONDS = 0.2


class Script:
    """Behaviours for the next requests, in order; the last one stays. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._behaviours = ["ok"]

    def set(self, behaviours: Sequence[str]) -> None:
        """Use these from now on."""
        with self._lock:
            self._behaviours = list(behaviours)

    def next(self) -> str:
        """The behaviour for the next request."""
        with self._lock:
            return self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]


def unknown(behaviours: Sequence[str]) -> list[str]:
    """Names that are no behaviour."""
    return [each for each in behaviours if not BEHAVIOUR.fullmatch(each)]


def misbehave(handler: BaseHTTPRequestHandler, behaviour: str, stop: threading.Event) -> bool:
    """Respond as the behaviour says; return False if the caller is to respond normally."""
    name, _, argument = behaviour.partition(":")
    if name == "ok":
        return False
    if name == "slow":
        stop.wait(float(argument))
        return False
    if name in ABNORMAL:
        handler.close_connection = True
        ABNORMAL[name](handler, stop)
        return True
    status, _, date_in = name.partition("@")
    headers = {"Retry-After": argument} if argument else {}
    if date_in:
        headers = {"Retry-After": formatdate(time.time() + float(date_in), usegmt=True)}
    reply(handler, int(status), b"{}", headers)
    return True


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Send a complete response."""
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    if status != 204:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if status != 204:
        handler.wfile.write(body)


def _hang(_handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    stop.wait()


def _drop(_handler: BaseHTTPRequestHandler, _stop: threading.Event) -> None:
    """Close the connection without a response."""


def _cut(handler: BaseHTTPRequestHandler, _stop: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"64\r\n{")


def _endless(handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    _send_until_closed(handler, b" " * 512, stop)


def _trickle(handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _send_until_closed(handler, b"x", stop)


def _send_until_closed(handler: BaseHTTPRequestHandler, part: bytes, stop: threading.Event) -> None:
    try:
        while not stop.wait(TRICKLE_SECONDS):
            handler.wfile.write(part)
            handler.wfile.flush()
    except OSError:  # the client closed the connection
        return


def _redirect(handler: BaseHTTPRequestHandler, _stop: threading.Event) -> None:
    reply(handler, 302, b"", {"Location": "/redirected"})


ABNORMAL = {
    "hang": _hang,
    "drop": _drop,
    "cut": _cut,
    "endless": _endless,
    "trickle": _trickle,
    "redirect": _redirect,
}
