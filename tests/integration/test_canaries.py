"""Nothing that a relay writes or prints contains secrets or personal data, even at LOG_LEVEL=DEBUG."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, quote_plus

import psutil
import pytest

from testkit.command_line import command
from testkit.deployment import Deployment
from testkit.relay_process import RelayProcess
from testkit.rows import new_row
from testkit.simulator import Simulator
from testkit.simulator.server import ACCESS_KEY, ACCESS_SECRET, CLIENT, SECRET
from testkit.waiting import wait_until

EMAIL, ENRICHED_EMAIL = "canary-customer@example.com", "canary-enriched@example.com"
PERSONAL = (EMAIL, ENRICHED_EMAIL, "canary-agent", "canary-interaction", "canary-body-field")
"""Values of rows. Only the interaction's id is shown to operators, who find rows by it."""
TOKEN, KAFKA_PASSWORD, DATABASE_PASSWORD = "canary-inference", "canary-kafka", "canary-database"
SECRETS = {
    "INFERENCE_TOKEN": TOKEN,
    "CXONE_CLIENT_SECRET": SECRET,
    "CXONE_OAUTH_GRANT": "password",
    "CXONE_ACCESS_KEY_ID": ACCESS_KEY,
    "CXONE_ACCESS_KEY_SECRET": ACCESS_SECRET,
    "KAFKA_CONFIG": json.dumps({"ssl.key.password": "canary-config"}),
    "LOG_LEVEL": "DEBUG",
}
ERRORS = (
    "SELECT error FROM outbox_rows WHERE error IS NOT NULL",
    "SELECT condition FROM outbox_shard WHERE condition IS NOT NULL",
    "SELECT error FROM outbox_inference_call WHERE error IS NOT NULL",
    "SELECT filter FROM outbox_audit",
)


def encoded(secret: str) -> set[str]:
    """A secret in every encoding that is sent."""
    forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), b64encode(secret.encode()).decode()}
    credentials = f"{quote_plus(CLIENT)}:{quote_plus(secret)}"
    return forms | {b64encode(credentials.encode()).decode(), json.dumps(secret).strip('"')}


class Echo:
    """A service that rejects every request with one status, and quotes the request wherever it can."""

    def __init__(self) -> None:
        self.status, self.paths = 400, list[str]()
        echo = self

        class Handler(BaseHTTPRequestHandler):
            def _respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                request = f"{self.requestline} {dict(self.headers)} {body}"
                echo.paths.append(self.path)
                response = json.dumps(
                    {"error": request, "error_description": request, "error_code": 1, "message": request}
                )
                self.send_response(echo.status, self.headers.get("Authorization", "") + self.path)
                self.send_header("Location", f"{self.path}?{quote(request)[:2000]}")
                self.send_header("X-Echo", quote(request)[:2000])
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response.encode())

            do_GET = do_POST = do_OPTIONS = do_PUT = _respond  # noqa: N815

            def log_message(self, *_args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A service that quotes its requests."""
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def canaries(deployment: Deployment, simulator: Simulator) -> Deployment:
    """A deployment with every kind of secret in its settings."""
    deployment.environ.update({**simulator.enrichment, **simulator.inference, **SECRETS})
    if deployment.engine.dialect.name == "postgresql":
        url = deployment.engine.url.set(password=DATABASE_PASSWORD)  # the tests' server accepts any password
        deployment.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)
    contact = {"customer": {"email": ENRICHED_EMAIL}, "agentId": "canary-agent"}
    simulator.contacts = {f"canary-interaction-{number}": contact for number in range(9)}
    return deployment


def person(number: int, **changes: Any) -> Any:
    """A row with personal data, whose agent is known to CXone only."""
    interaction = f"canary-interaction-{number}"
    body = json.dumps({"id": interaction, "note": "canary-body-field", "customer": {"email": EMAIL}}).encode()
    changes = {"customer_email": EMAIL, "agent_id": None, "payload": body, **changes}
    return new_row(interaction, **changes)


def relay_with(deployment: Deployment, environ: Mapping[str, str]) -> RelayProcess:
    """Start a relay with further settings."""
    return deployment.relay(None, 1, None, **environ)


def check_text(text: str, environ: Mapping[str, str], where: str, *, allowed: str = "") -> None:
    """Assert that the text contains neither secrets nor personal data, but for ``allowed``."""
    registry = environ.get("SCHEMA_REGISTRY_PASSWORD") or "none-is-set"
    secrets = [TOKEN, SECRET, ACCESS_SECRET, KAFKA_PASSWORD, DATABASE_PASSWORD, registry, "canary-config"]
    for secret in (form for each in secrets for form in encoded(each)):
        assert secret not in text, f"{secret} in {where}"
    for personal in PERSONAL:
        assert personal == allowed or personal not in text, f"{personal} in {where}"
    assert "Bearer " not in text, where
    assert "token-1" not in text, f"a token of CXone in {where}"


def check_outputs(deployment: Deployment, relay: RelayProcess, environ: Mapping[str, str] | None = None) -> None:
    """Check log, metrics, health, process list, error columns and the output of commands."""
    environ = {**deployment.environ, **(environ or {})}
    check_text(relay.log.read_text(), environ, str(relay.log))
    for path in ("/metrics", "/readyz", "/healthz"):
        check_text(relay.get(path), environ, path)
    if relay.running():
        check_text(" ".join(psutil.Process(relay.pid).cmdline()), environ, "the process list")
    for query in ERRORS:
        check_text(str(deployment.query(query)), environ, query)
    for arguments in (["status"], ["status", "--json"], ["shards"], ["audit"], ["audit", "--json"], ["check"]):
        ended = command(environ, *arguments)
        check_text(ended.stdout + ended.stderr, environ, f"relay {arguments[0]}")
    for arguments in (["list", "--all"], ["inference", "list", "--all"], ["show", "1"], ["show", "1", "--verify"]):
        ended = command(environ, *arguments)
        check_text(ended.stdout + ended.stderr, environ, f"relay {arguments[0]}", allowed="canary-interaction")


def test_normal_operation_exposes_nothing(canaries: Deployment, simulator: Simulator) -> None:
    """Rows are completed, sent, scored, replayed and shown: only their ids are."""
    canaries.record([person(1), person(2), person(2, customer_email=None)])
    relay = canaries.relay()
    canaries.wait_drained()
    wait_until(lambda: len(simulator.scored_keys()) == 3, "all are called")
    assert command(canaries.environ, "replay", "--id", "1", "--reason", "drill", "--yes").returncode == 0
    canaries.wait_drained()
    check_outputs(canaries, relay)
    relay.stop()
    check_text(relay.log.read_text(), canaries.environ, str(relay.log))


@pytest.mark.parametrize("status", [302, 400, 500])
def test_services_that_quote_requests_expose_nothing(canaries: Deployment, echo: Echo, status: int) -> None:
    """Inference, OAuth and CXone reject requests, and quote them in status line, headers and body."""
    echo.status = status
    ids = canaries.record([person(1, agent_id="canary-agent")])
    scoring = {"INFERENCE_URL": f"{echo.base}/canary-path?key=canary-config"}
    relay = relay_with(canaries, scoring)
    wait_until(lambda: "/canary-path?key=canary-config" in echo.paths, "inference is called")
    tried = f"SELECT count(*) FROM outbox_inference_call WHERE row_id = {ids[0]} AND error IS NOT NULL"
    wait_until(lambda: canaries.query(tried) == [(1,)], "the result is recorded")
    check_outputs(canaries, relay, scoring)
    relay.stop()
    canaries.record([person(2)])
    token = {"CXONE_OAUTH_URL": f"{echo.base}/token"}
    relay = relay_with(canaries, token)
    wait_until(lambda: "enrichment" in relay.degraded(), "there is no token")
    check_outputs(canaries, relay, token)
    relay.stop()
    contact = {"CXONE_ENRICH_URL": f"{echo.base}/contacts/{{interactionId}}"}
    relay = relay_with(canaries, contact)
    wait_until(lambda: "/contacts/canary-interaction-2" in echo.paths, "CXone is called")
    wait_until(lambda: "enrichment" in relay.degraded() or not canaries.pending(), "CXone has responded")
    check_outputs(canaries, relay, contact)


@pytest.mark.parametrize("status", [401, 409])
def test_a_registry_that_quotes_requests_exposes_nothing(canaries: Deployment, echo: Echo, status: int) -> None:
    """Neither its password nor its responses are logged, even if the relay ends."""
    echo.status = status
    registry = {"SCHEMA_REGISTRY_URL": echo.base}
    relay = relay_with(canaries, registry)
    wait_until(lambda: relay.degraded() or not relay.running(), "the refusal is shown")
    check_outputs(canaries, relay, registry)


@pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)
def test_a_database_error_that_quotes_a_row_exposes_nothing(canaries: Deployment) -> None:
    """An unexpected error is logged by its type and place: PostgreSQL's message contains the whole row."""
    canaries.record([person(1, customer_email=None)])
    canaries.execute(f"ALTER TABLE outbox ADD CHECK (customer_email <> '{ENRICHED_EMAIL}')")
    relay = canaries.relay()
    wait_until(lambda: "CheckViolation" in relay.log.read_text(), "the row is refused")
    check_outputs(canaries, relay)


def test_a_login_that_kafka_refuses_exposes_nothing(canaries: Deployment) -> None:
    """The broker does not know the login, or takes none at all."""
    sasl = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "someone",
        "KAFKA_SASL_PASSWORD": KAFKA_PASSWORD,
        "KAFKA_SASL_MECHANISM": "PLAIN",
    }
    relay = relay_with(canaries, sasl)
    wait_until(lambda: "kafka" in relay.degraded(), "the refusal is shown")
    check_outputs(canaries, relay, sasl)


@pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "refused",
    [
        {"DATABASE_URL": f"postgres://user:{DATABASE_PASSWORD}@127.0.0.1:1/none"},
        {"DATABASE_URL": f"mysql://user:{DATABASE_PASSWORD}@host/none"},
        {"DATABASE_URL": f"postgres://user:{DATABASE_PASSWORD}@host:port/none"},
        {"INFERENCE_TOKEN": f"{TOKEN} with a space"},
        {"INFERENCE_TOKEN_FILE": "/none", "INFERENCE_TOKEN": TOKEN},
        {"KAFKA_CONFIG": '{"ssl.key.password": ["canary-config"]}'},
        {"KAFKA_CONFIG": '{"ssl.key.password": "canary-config", "acks": "canary-config"}'},
        {"KAFKA_CONFIG": '{"ssl.key.location": "/none", "ssl.key.password": "canary-config"}'},
        {"KAFKA_SASL_PASSWORD": KAFKA_PASSWORD},
        {"INFERENCE_URL": f"http://user:{TOKEN}@127.0.0.1/"},
        {"CXONE_OAUTH_URL": f"ftp://user:{TOKEN}@127.0.0.1/"},
    ],
)
def test_refused_settings_expose_nothing(canaries: Deployment, refused: dict[str, str]) -> None:
    """A refused value is named by its variable alone."""
    for arguments in (("check",), ("status",), ("list", "--all")):
        ended = command(canaries.environ, *arguments, **refused)
        check_text(ended.stdout + ended.stderr, canaries.environ, f"relay {arguments[0]}", allowed="canary-interaction")
    relay = relay_with(canaries, refused)
    wait_until(lambda: relay.get("/readyz") or not relay.running(), "the settings are read")
    check_text(relay.log.read_text(), canaries.environ, str(relay.log))
