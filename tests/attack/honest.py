"""Honest clients: requests at a fixed rate, each on a new connection, timed from when it was due."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from testkit.background import BackgroundTask
from testkit.web_process import PATH, SECRET, RawResponse, read_response

TIMEOUT_SECONDS = 30.0
_numbers = count()


def post_interaction(port: int) -> RawResponse:
    """Send a new interaction."""
    body = b'{"id": "honest-%d", "channel": "voice"}' % next(_numbers)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-CXone-Webhook-Secret: {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n"
    return send(port, head.encode() + body)


def get_health(port: int) -> RawResponse:
    """Send a health check."""
    return send(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def send(port: int, request: bytes) -> RawResponse:
    """Send one request on a new connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(request)
        return read_response(connection)


class HonestClients(BackgroundTask):
    """Clients that send requests at a fixed rate while the context is active.

    Args:
        port: Port of the server.
        request: Sends one request.
        per_second: Requests a second.
    """

    def __init__(self, port: int, request: Callable[[int], RawResponse], per_second: float) -> None:
        super().__init__()
        self._port, self._request, self._pause = port, request, 1 / per_second
        self.answers: list[RawResponse] = []
        self.seconds: list[float] = []
        """Duration of each answered request."""
        self.failures: list[str] = []
        """Error of each request without a response."""

    def percentile(self, share: float) -> float:
        """Percentile of the durations in seconds; requests without a response count as the longest."""
        found = sorted(self.seconds) + [TIMEOUT_SECONDS] * len(self.failures)
        return found[min(len(found) - 1, int(share * len(found)))]

    def _run(self) -> None:
        due = time.monotonic()
        with ThreadPoolExecutor(200) as pool:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                pool.submit(self._request_once, due)
                due += self._pause

    def _request_once(self, due: float) -> None:
        try:
            answer = self._request(self._port)
        except (OSError, AssertionError) as error:
            self.failures.append(type(error).__name__)
        else:
            self.seconds.append(time.monotonic() - due)
            self.answers.append(answer)
