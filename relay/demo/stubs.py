"""Stand-ins for a Schema Registry and a scoring container: one local HTTP server for both."""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SCHEMA_ID = 1


class Stubs:
    """Serves ``/registry/subjects/…`` and ``/score`` on a free port of this machine."""

    def __init__(self) -> None:
        stand_ins = self
        self.scored: set[str] = set()
        """Idempotency keys of the scoring calls that came."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionError):  # the client was killed while it called: the demo does that
                    super().handle()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/score":
                    stand_ins.scored.add(self.headers.get("Idempotency-Key", ""))
                body = json.dumps({"id": SCHEMA_ID, "version": 1, "subject": "demo", "schema": "{}"}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Print nothing: the demo says what matters."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
