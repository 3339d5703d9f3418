"""Stubs of a Schema Registry and of an inference endpoint, in one local HTTP server."""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from relay.kafka.avro import SCHEMA_TEXT

SCHEMA_ID = 1


class Stubs:
    """Serves ``/registry/subjects/…``, ``/registry/schemas/…`` and ``/score`` on a free local port.

    The registry knows the relay's schema alone.
    """

    def __init__(self) -> None:
        stubs = self
        self.scored: set[str] = set()
        """Idempotency keys of the inference calls received."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionError):  # the demo kills the relay during calls
                    super().handle()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/score":
                    stubs.scored.add(self.headers.get("Idempotency-Key", ""))
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = json.dumps({"id": SCHEMA_ID, "version": 1, "subject": "demo", "schema": SCHEMA_TEXT}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
