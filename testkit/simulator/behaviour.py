"""How the simulator answers: behaviours by name, one after the other."""

import re
import threading
import time
from collections.abc import Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

BEHAVIOURS = """\
ok                 answers well
slow:SECONDS       answers well, after a while
hang               takes the request and says nothing
drop               takes the request and closes the connection
cut                begins an answer of 200 and closes the connection
endless            answers 200, and its body never ends
trickle            sends a byte of the head now and then, without end
redirect           answers 302, with a place to go to
STATUS             answers with that status, as 500
STATUS:SECONDS     the same with Retry-After in seconds, as 429:5
STATUS@SECONDS     the same with Retry-After as a date that many seconds from now
"""
BEHAVIOUR = re.compile(
    r"ok|hang|drop|cut|endless|trickle|redirect|slow:\d+(\.\d+)?|[2-5]\d\d(:.*|@-?\d+(\.\d+)?)?", re.ASCII
)
TRICKLE_SECONDS = 0.2


class Script:
    """What the next requests meet, in turn; the last behaviour stays. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._behaviours = ["ok"]

    def set(self, behaviours: Sequence[str]) -> None:
        """From now on these, one a request."""
        with self._lock:
            self._behaviours = list(behaviours)

    def next(self) -> str:
        """For the request at hand."""
        with self._lock:
            return self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]


def unknown(behaviours: Sequence[str]) -> list[str]:
    """Those of the behaviours that are none."""
    return [each for each in behaviours if not BEHAVIOUR.fullmatch(each)]


def misbehave(handler: BaseHTTPRequestHandler, behaviour: str, stop: threading.Event) -> bool:
    """Answer as the behaviour tells; False if it is for the caller to answer well."""
    name, _, argument = behaviour.partition(":")
    if name == "ok":
        return False
    if name == "slow":
        stop.wait(float(argument))
        return False
    if name in ODDITIES:
        handler.close_connection = True
        ODDITIES[name](handler, stop)
        return True
    status, _, date_in = name.partition("@")
    headers = {"Retry-After": argument} if argument else {}
    if date_in:
        headers = {"Retry-After": formatdate(time.time() + float(date_in), usegmt=True)}
    reply(handler, int(status), b"{}", headers)
    return True


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """A whole answer."""
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
    """The connection is closed without a word."""


def _cut(handler: BaseHTTPRequestHandler, _stop: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"64\r\n{")


def _endless(handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    _until_cut(handler, b" " * 512, stop)


def _trickle(handler: BaseHTTPRequestHandler, stop: threading.Event) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _until_cut(handler, b"x", stop)


def _until_cut(handler: BaseHTTPRequestHandler, part: bytes, stop: threading.Event) -> None:
    try:
        while not stop.wait(TRICKLE_SECONDS):
            handler.wfile.write(part)
            handler.wfile.flush()
    except OSError:  # the other side has had enough
        return


def _redirect(handler: BaseHTTPRequestHandler, _stop: threading.Event) -> None:
    reply(handler, 302, b"", {"Location": "/redirected"})


ODDITIES = {
    "hang": _hang,
    "drop": _drop,
    "cut": _cut,
    "endless": _endless,
    "trickle": _trickle,
    "redirect": _redirect,
}
