"""The server: ``/score``, ``/auth/token``, ``/contacts/ID``, and ``/behave/ENDPOINT`` to set how it responds."""

import json
import ssl
import threading
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

from testkit.simulator.behaviour import BEHAVIOURS, Script, misbehave, reply, unknown

CLIENT, SECRET = "simulated-client", "simulated%2Fsecret+/ü=="
ACCESS_KEY, ACCESS_SECRET = "SIMULATED====", "simulated+key/secret="
ENDPOINTS = {"score": "score", "auth": "token", "contacts": "contact", "redirected": "redirected"}
"""By the first segment of the path."""


class Request(NamedTuple):
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class Simulator:
    """Serves until it is closed.

    Args:
        port: on the loopback interface; 0 for a free one.
        tls: None for plain HTTP.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.scripts = {name: Script() for name in ("score", "token", "contact")}
        self.requests: dict[str, list[Request]] = {name: [] for name in (*self.scripts, "redirected")}
        self.contacts: dict[str, dict[str, Any] | int] = {}
        """Body or status returned for each contact; every other contact has an invented e-mail and agent."""
        self.token_seconds = 3600.0
        self.tokens: dict[str, float] = {}
        """Valid tokens and when they expire, in seconds since the epoch; clear it to revoke them."""
        self._stop = threading.Event()
        simulator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                simulator.respond(self)

            def do_GET(self) -> None:
                simulator.respond(self)

            def log_message(self, *_args: object) -> None:
                """Log nothing."""

        self._server = _Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.base = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def inference(self) -> dict[str, str]:
        """The relay's settings for inference."""
        return {"INFERENCE_URL": f"{self.base}/score"}

    @property
    def enrichment(self) -> dict[str, str]:
        """The relay's settings for enrichment."""
        return {
            "CXONE_OAUTH_URL": f"{self.base}/auth/token",
            "CXONE_CLIENT_ID": CLIENT,
            "CXONE_CLIENT_SECRET": SECRET,
            "CXONE_ENRICH_URL": f"{self.base}/contacts/{{interactionId}}",
        }

    def behave(self, endpoint: str, *behaviours: str) -> None:
        """Set how the next requests to ``score``, ``token`` or ``contact`` are handled; the last behaviour stays."""
        self.scripts[endpoint].set(behaviours)

    def scored_keys(self) -> list[int]:
        """Idempotency keys of the scoring requests, in order of arrival."""
        return [int(request.headers["Idempotency-Key"]) for request in list(self.requests["score"])]

    def requested_contacts(self) -> list[str]:
        """Ids of the requested contacts, in order of arrival."""
        return [unquote(request.path.rsplit("/", 1)[-1]) for request in list(self.requests["contact"])]

    def release(self) -> None:
        """End the requests in progress, whatever their behaviour."""
        self._stop.set()

    def close(self) -> None:
        """Stop serving; requests in progress end."""
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Respond to the request that the handler has read."""
        path = urlsplit(handler.path).path
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        request = Request(path, dict(handler.headers.items()), body, time.time())
        first = path.split("/")[1]
        if first == "behave":
            error = self._set_behaviours(path.rsplit("/", 1)[-1], body.decode().split())
            reply(handler, 400 if error else 200, f"{error or 'set'}\n".encode())
            return
        endpoint = ENDPOINTS.get(first)
        if endpoint is None:
            reply(handler, 404, b"{}")
            return
        self.requests[endpoint].append(request)
        if endpoint in self.scripts and misbehave(handler, self.scripts[endpoint].next(), self._stop):
            return
        normal = {"token": self._token, "contact": self._contact}.get(endpoint)
        status, document = normal(request) if normal else (200, {"score": 0.5})
        headers = {"Set-Cookie": f"server-{len(self.requests[endpoint])}=1"}  # as load balancers do
        reply(handler, status, json.dumps(document).encode(), headers)

    def _set_behaviours(self, endpoint: str, behaviours: list[str]) -> str | None:
        """Set behaviours that were posted; return what is wrong with them, or None."""
        if endpoint not in self.scripts:
            return f"no endpoint {endpoint}: use one of {', '.join(self.scripts)}"
        if not behaviours or unknown(behaviours):
            return f"unknown behaviour {' '.join(unknown(behaviours))}: use\n{BEHAVIOURS}"
        self.behave(endpoint, *behaviours)
        return None

    def _token(self, request: Request) -> tuple[int, dict[str, Any]]:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        credentials = unquote_plus(b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode())
        key = (form.get("username"), form.get("password"))
        rejected_key = form.get("grant_type") == "password" and key != (ACCESS_KEY, ACCESS_SECRET)
        if credentials != f"{CLIENT}:{SECRET}" or rejected_key:
            return 401, {
                "error": "invalid_client",
                "error_description": credentials,
            }  # quotes secrets, as some servers do
        token = f"token-{len(self.requests['token'])}"
        self.tokens[token] = time.time() + self.token_seconds
        return 200, {"access_token": token, "token_type": "bearer", "expires_in": self.token_seconds}

    def _contact(self, request: Request) -> tuple[int, dict[str, Any]]:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) < time.time():
            return 401, {"error": "invalid_token"}
        contact = unquote(request.path.rsplit("/", 1)[-1])
        found = self.contacts.get(contact, {"customer": {"email": "learned@example.com"}, "agentId": 42})
        return (found, {}) if isinstance(found, int) else (200, found)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""
