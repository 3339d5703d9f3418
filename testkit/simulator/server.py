"""The server: ``/score``, ``/auth/token``, ``/contacts/ID``, and ``/behave/NAME`` to change how it answers."""

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


class Request(NamedTuple):
    """One that came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class Simulator:
    """Serves until it is closed.

    Args:
        port: on the loopback interface; 0 takes a free one.
        tls: of the server; None: plain HTTP.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.scripts = {name: Script() for name in ("score", "token", "contact")}
        self.requests: dict[str, list[Request]] = {name: [] for name in (*self.scripts, "redirected")}
        self.contacts: dict[str, dict[str, Any] | int] = {}
        """Answer for each contact, or a status; any other contact has an e-mail and an agent made up."""
        self.token_seconds = 3600.0
        self.tokens: dict[str, float] = {}
        """Valid tokens, and when they expire, by the clock; clear it to revoke them."""
        self._stop = threading.Event()
        simulator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                simulator._answer(self)

            def do_GET(self) -> None:
                simulator._answer(self)

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = _Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.base = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def inference(self) -> dict[str, str]:
        """The relay's settings for scoring."""
        return {"INFERENCE_URL": f"{self.base}/score"}

    @property
    def enrichment(self) -> dict[str, str]:
        """The relay's settings for CXone."""
        return {
            "CXONE_OAUTH_URL": f"{self.base}/auth/token",
            "CXONE_CLIENT_ID": CLIENT,
            "CXONE_CLIENT_SECRET": SECRET,
            "CXONE_ENRICH_URL": f"{self.base}/contacts/{{interactionId}}",
        }

    def behave(self, place: str, *behaviours: str) -> None:
        """What the next requests at ``score``, ``token`` or ``contact`` meet; the last one stays."""
        self.scripts[place].set(behaviours)

    def scored(self) -> list[int]:
        """Idempotency keys of the scoring calls that came, in order."""
        return [int(request.headers["Idempotency-Key"]) for request in list(self.requests["score"])]

    def asked(self) -> list[str]:
        """Interactions that were asked for, in order."""
        return [unquote(request.path.rsplit("/", 1)[-1]) for request in list(self.requests["contact"])]

    def let_go(self) -> None:
        """End the requests in hand, however they misbehave."""
        self._stop.set()

    def close(self) -> None:
        """Stop serving; requests in hand end."""
        self.let_go()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        request = Request(path, dict(handler.headers.items()), body, time.time())
        places = {"score": "score", "auth": "token", "contacts": "contact", "redirected": "redirected"}
        first = path.split("/")[1]
        if first == "behave":
            wrong = self._told_to_behave(path.rsplit("/", 1)[-1], body.decode().split())
            reply(handler, 400 if wrong else 200, f"{wrong or 'it does from now on'}\n".encode())
            return
        place = places.get(first)
        if place is None:
            reply(handler, 404, b"{}")
            return
        self.requests[place].append(request)
        if place in self.scripts and misbehave(handler, self.scripts[place].next(), self._stop):
            return
        answer = {"token": self._token, "contact": self._contact}.get(place)
        status, told = answer(request) if answer else (200, {"score": 0.5})
        headers = {"Set-Cookie": f"server-{len(self.requests[place])}=1"}  # as balancers do
        reply(handler, status, json.dumps(told).encode(), headers)

    def _told_to_behave(self, place: str, behaviours: list[str]) -> str | None:
        """What is wrong with an order that came over HTTP; None: it is obeyed."""
        if place not in self.scripts:
            return f"places are {', '.join(self.scripts)}, not {place}"
        if not behaviours or unknown(behaviours):
            return f"behaviours are\n{BEHAVIOURS}not {' '.join(unknown(behaviours)) or 'nothing'}"
        self.behave(place, *behaviours)
        return None

    def _token(self, request: Request) -> tuple[int, dict[str, Any]]:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        login = unquote_plus(b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode())
        key = (form.get("username"), form.get("password"))
        wrong_key = form.get("grant_type") == "password" and key != (ACCESS_KEY, ACCESS_SECRET)
        if login != f"{CLIENT}:{SECRET}" or wrong_key:
            return 401, {"error": "invalid_client", "error_description": login}  # echoes secrets, as some do
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
        """A client that leaves in the middle is no error here."""
