"""An inference endpoint that can stop and start again at the same address."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from testkit.ports import free_port


class InferenceEndpoint:
    """Answers each call with 200 while it runs."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/score"
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Start serving."""

        class Handler(BaseHTTPRequestHandler):
            def _respond(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_OPTIONS = _respond  # noqa: N815

            def log_message(self, *_args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def inference() -> Iterator[InferenceEndpoint]:
    """Provide an endpoint for one test."""
    endpoint = InferenceEndpoint()
    yield endpoint
    endpoint.stop()
