"""The relay's own HTTP port: metrics and health. ``/readyz`` stays 200 while a service is down,
for a restart would not bring it back; the body names what waits.
"""

import json
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from relay.errors import MisconfiguredError
from relay.health import Health


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Health checks come every few seconds: no line for each."""


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class MetricsServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` from a thread of its own.

    Args:
        port: to listen on; 0 takes a free one.
        registry: of the metrics.
        health: what ``/readyz`` tells.

    Raises:
        MisconfiguredError: the port cannot be had.
    """

    def __init__(self, port: int, registry: CollectorRegistry, health: Health) -> None:
        metrics = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                return metrics(environ, start)  # type: ignore[no-any-return]
            if path in ("/healthz", "/readyz"):
                body: dict[str, Any] = {"status": "ok"}
                if path == "/readyz":
                    body["degraded"] = [{"subject": s, "reason": r} for s, r in sorted(health.conditions().items())]
                start("200 OK", [("Content-Type", "application/json")])
                return [json.dumps(body).encode()]
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"not found\n"]

        try:
            self._server = make_server("", port, app, _ThreadingServer, _QuietHandler)
        except OSError as error:
            raise MisconfiguredError(
                f"RELAY_METRICS_PORT={port} cannot be listened on ({error.strerror}): where another relay of this host "
                "has it, set another one, or 0 for any that is free"
            ) from None
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
