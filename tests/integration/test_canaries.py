"""Secrets and personal data stand in nothing that a relay writes or prints, at LOG_LEVEL=DEBUG, whatever is quoted."""

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

EMAIL, LEARNED = "canary-customer@example.com", "canary-learned@example.com"
PERSONAL = (EMAIL, LEARNED, "canary-agent", "canary-interaction", "canary-body-field")
"""What rows hold: of these the interaction's id alone is shown to operators, who look for rows by it."""
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
    "SELECT error FROM outbox WHERE error IS NOT NULL",
    "SELECT condition FROM outbox_shard WHERE condition IS NOT NULL",
    "SELECT error FROM outbox_inference_call WHERE error IS NOT NULL",
    "SELECT filter FROM outbox_audit",
)


def encoded(secret: str) -> set[str]:
    """A secret in every form that it travels in."""
    forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), b64encode(secret.encode()).decode()}
    login = f"{quote_plus(CLIENT)}:{quote_plus(secret)}"
    return forms | {b64encode(login.encode()).decode(), json.dumps(secret).strip('"')}


class Echo:
    """Any service at its worst: refuses everything with one status, and quotes the request wherever it can."""

    def __init__(self) -> None:
        self.status, self.asked = 400, list[str]()
        echo = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                given = f"{self.requestline} {dict(self.headers)} {body}"
                echo.asked.append(self.path)
                answer = json.dumps({"error": given, "error_description": given, "error_code": 1, "message": given})
                self.send_response(echo.status, self.headers.get("Authorization", "") + self.path)
                self.send_header("Location", f"{self.path}?{quote(given)[:2000]}")
                self.send_header("X-Echo", quote(given)[:2000])
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer.encode())

            do_GET = do_POST = do_OPTIONS = do_PUT = _answer  # noqa: N815

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A service that quotes what it is asked."""
    served = Echo()
    yield served
    served.close()


@pytest.fixture
def canaries(deployment: Deployment, simulator: Simulator) -> Deployment:
    """A world whose settings are full of secrets, and whose rows are of a person."""
    deployment.environ.update({**simulator.enrichment, **simulator.inference, **SECRETS})
    if deployment.engine.dialect.name == "postgresql":
        url = deployment.engine.url.set(password=DATABASE_PASSWORD)  # the server of the tests trusts everybody
        deployment.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)
    contact = {"customer": {"email": LEARNED}, "agentId": "canary-agent"}
    simulator.contacts = {f"canary-interaction-{number}": contact for number in range(9)}
    return deployment


def person(number: int, **changes: Any) -> Any:
    """A row of a person, whose agent CXone knows."""
    interaction = f"canary-interaction-{number}"
    body = json.dumps({"id": interaction, "note": "canary-body-field", "customer": {"email": EMAIL}}).encode()
    changes = {"customer_email": EMAIL, "agent_id": None, "payload": body, **changes}
    return new_row(interaction, **changes)


def relay_with(deployment: Deployment, environ: Mapping[str, str]) -> RelayProcess:
    """A relay with further settings."""
    return deployment.relay(None, 1, None, **environ)


def nothing_in(text: str, environ: Mapping[str, str], where: str, *, allowed: str = "") -> None:
    """Neither a secret nor personal data is in the text."""
    registry = environ.get("SCHEMA_REGISTRY_PASSWORD") or "none-is-set"
    secrets = [TOKEN, SECRET, ACCESS_SECRET, KAFKA_PASSWORD, DATABASE_PASSWORD, registry, "canary-config"]
    for secret in (form for each in secrets for form in encoded(each)):
        assert secret not in text, f"{secret} in {where}"
    for personal in PERSONAL:
        assert personal == allowed or personal not in text, f"{personal} in {where}"
    assert "Bearer " not in text, where
    assert "token-1" not in text, f"a token of CXone in {where}"


def nothing_told(deployment: Deployment, relay: RelayProcess, environ: Mapping[str, str] | None = None) -> None:
    """Log, metrics, health, process list, database columns, and what commands print."""
    given = {**deployment.environ, **(environ or {})}
    nothing_in(relay.log.read_text(), given, str(relay.log))
    for path in ("/metrics", "/readyz", "/healthz"):
        nothing_in(relay.get(path), given, path)
    if relay.running():
        nothing_in(" ".join(psutil.Process(relay.pid).cmdline()), given, "the process list")
    for query in ERRORS:
        nothing_in(str(deployment.query(query)), given, query)
    for arguments in (["status"], ["status", "--json"], ["shards"], ["audit"], ["audit", "--json"], ["check"]):
        ended = command(given, *arguments)
        nothing_in(ended.stdout + ended.stderr, given, f"relay {arguments[0]}")
    for arguments in (["list", "--all"], ["inference", "list", "--all"], ["show", "1"], ["show", "1", "--verify"]):
        ended = command(given, *arguments)
        nothing_in(ended.stdout + ended.stderr, given, f"relay {arguments[0]}", allowed="canary-interaction")


def test_nothing_is_told_while_all_is_well(canaries: Deployment, simulator: Simulator) -> None:
    """Rows are completed, sent, scored and looked at: what is told of them is no more than their ids."""
    canaries.record([person(1), person(2), person(2, customer_email=None)])
    relay = canaries.relay()
    canaries.wait_drained()
    wait_until(lambda: len(simulator.scored_keys()) == 3, "all are scored")
    assert command(canaries.environ, "replay", "--id", "1", "--reason", "drill", "--yes").returncode == 0
    canaries.wait_drained()
    nothing_told(canaries, relay)
    relay.stop()
    nothing_in(relay.log.read_text(), canaries.environ, str(relay.log))


@pytest.mark.parametrize("status", [302, 400, 500])
def test_nothing_is_told_of_what_services_quote(canaries: Deployment, echo: Echo, status: int) -> None:
    """Inference, OAuth and CXone refuse, and quote secrets and persons in status line, head and body."""
    echo.status = status
    ids = canaries.record([person(1, agent_id="canary-agent")])
    scoring = {"INFERENCE_URL": f"{echo.base}/canary-path?key=canary-config"}
    relay = relay_with(canaries, scoring)
    wait_until(lambda: "/canary-path?key=canary-config" in echo.asked, "it is asked for a score")
    tried = f"SELECT count(*) FROM outbox_inference_call WHERE row_id = {ids[0]} AND error IS NOT NULL"
    wait_until(lambda: canaries.query(tried) == [(1,)], "the call is settled")
    nothing_told(canaries, relay, scoring)
    relay.stop()
    canaries.record([person(2)])
    token = {"CXONE_OAUTH_URL": f"{echo.base}/token"}
    relay = relay_with(canaries, token)
    wait_until(lambda: "enrichment" in relay.degraded(), "there is no token")
    nothing_told(canaries, relay, token)
    relay.stop()
    contact = {"CXONE_ENRICH_URL": f"{echo.base}/contacts/{{interactionId}}"}
    relay = relay_with(canaries, contact)
    wait_until(lambda: "/contacts/canary-interaction-2" in echo.asked, "it is asked for the interaction")
    wait_until(lambda: "enrichment" in relay.degraded() or not canaries.pending(), "CXone has answered")
    nothing_told(canaries, relay, contact)


@pytest.mark.parametrize("status", [401, 409])
def test_nothing_is_told_of_a_registry_that_quotes(canaries: Deployment, echo: Echo, status: int) -> None:
    """Its password and what it answers stay out of the log, also where the relay gives up."""
    echo.status = status
    registry = {"SCHEMA_REGISTRY_URL": echo.base}
    relay = relay_with(canaries, registry)
    wait_until(lambda: relay.degraded() or not relay.running(), "it says that the registry refuses")
    nothing_told(canaries, relay, registry)


def test_nothing_is_told_of_a_row_that_the_database_quotes(canaries: Deployment) -> None:
    """An error that nobody expected is logged by its kind and place: PostgreSQL's message holds the whole row."""
    if canaries.engine.dialect.name == "sqlite":
        return
    canaries.record([person(1, customer_email=None)])
    canaries.execute(f"ALTER TABLE outbox ADD CHECK (customer_email <> '{LEARNED}')")
    relay = canaries.relay()
    wait_until(lambda: "CheckViolation" in relay.log.read_text(), "the row is refused")
    nothing_told(canaries, relay)


def test_nothing_is_told_of_a_login_that_kafka_refuses(canaries: Deployment) -> None:
    """The broker knows no such login, or no login at all."""
    sasl = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "someone",
        "KAFKA_SASL_PASSWORD": KAFKA_PASSWORD,
        "KAFKA_SASL_MECHANISM": "PLAIN",
    }
    relay = relay_with(canaries, sasl)
    wait_until(lambda: "kafka" in relay.degraded(), "Kafka is not reached")
    nothing_told(canaries, relay, sasl)


@pytest.mark.parametrize(
    "wrong",
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
def test_nothing_is_told_of_settings_that_are_refused(canaries: Deployment, wrong: dict[str, str]) -> None:
    """A value that cannot be taken is named by its variable, whatever the database."""
    if canaries.engine.dialect.name == "postgresql":
        return
    for arguments in (("check",), ("status",), ("list", "--all")):
        ended = command(canaries.environ, *arguments, **wrong)
        nothing_in(ended.stdout + ended.stderr, canaries.environ, f"relay {arguments[0]}", allowed="canary-interaction")
    relay = relay_with(canaries, wrong)
    wait_until(lambda: relay.get("/readyz") or not relay.running(), "it has read its settings")
    nothing_in(relay.log.read_text(), canaries.environ, str(relay.log))
