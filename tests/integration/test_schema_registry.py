"""What answers at SCHEMA_REGISTRY_URL: a registry, or any other web server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from testkit.command_line import command
from testkit.databases import NewDatabase
from testkit.deployment import Deployment, settings_for
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Registry

HTML = b"<!doctype html><title>Not here</title>"


@contextmanager
def web_server(status: int, body: bytes, endless: bool = False) -> Iterator[str]:  # noqa: FBT001, FBT002
    """The URL of a web server that gives the same answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/elsewhere/")
            if not endless:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            while endless:
                self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 - as the base class names them

        def log_message(self, *_: object) -> None:
            """Do not log requests."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture
def sqlite_deployment(
    new_sqlite: NewDatabase,
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    tmp_path: Path,
    deployments: list[Deployment],
) -> Deployment:
    """A deployment on SQLite: the kind of database makes no difference here."""
    url = new_sqlite()
    config = {"bootstrap.servers": kafka.bootstrap_servers}
    deployments.append(Deployment(url, settings_for(kafka, registry, url), config, tmp_path))
    return deployments[-1]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, HTML),
        (404, b'{"detail": "no such resource"}'),
        (404, b'{"error_code": "E1"}'),
        (404, b"[]"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (400, HTML),
        (405, b""),
        (501, HTML),
        (200, HTML),
        (200, b"[]"),
        (200, b'{"id": null}'),
        (200, b'{"id": Infinity}'),
        (200, b'{"id": 2147483648}'),
        (200, b'{"id": -1}'),
        (302, b""),
        (307, b""),
    ],
)
def test_another_web_server_is_not_taken_for_a_registry(
    sqlite_deployment: Deployment, status: int, body: bytes
) -> None:
    """The check fails and the relay waits, both with the address and the remedy: to correct its path."""
    deployment = sqlite_deployment
    with web_server(status, body) as url:
        result = command(deployment.environ, "check", SCHEMA_REGISTRY_URL=url)
        (line,) = [line for line in result.stdout.splitlines() if " schema registry: " in line]
        assert result.returncode == 4
        assert f"{url.removeprefix('http://')}" in line
        assert f"answers {status}" in line
        assert "/apis/ccompat/v7" in result.stdout.split("schema registry:")[1].splitlines()[1]
        relay = deployment.relay(SCHEMA_REGISTRY_URL=url)
        relay.wait_degraded("schema registry", "/apis/ccompat/v7")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (
            409,
            b'{"error_code": 409, "message": "incompatible"}',
            "not compatible with relay/kafka/schemas/interaction.avsc",
        ),
        (
            422,
            b'{"error_code": 42201, "message": "invalid"}',
            "not compatible with relay/kafka/schemas/interaction.avsc",
        ),
    ],
)
def test_a_relay_waits_while_the_registry_refuses_its_schema(
    sqlite_deployment: Deployment, status: int, body: bytes, reason: str
) -> None:
    """No row is parked, and the process does not exit: the registry can be corrected while it waits."""
    deployment = sqlite_deployment
    deployment.record(new_rows(1))
    with web_server(status, body) as url:
        running = deployment.relay(SCHEMA_REGISTRY_URL=url)
        running.wait_degraded("schema registry", reason)
        assert running.running()
    assert deployment.query("SELECT state FROM outbox_rows") == [("pending",)]


def test_a_registry_without_its_path_is_not_a_registry(sqlite_deployment: Deployment) -> None:
    """It answers 404 in JSON, but without an error code of the registry's own."""
    deployment = sqlite_deployment
    url = deployment.environ["SCHEMA_REGISTRY_URL"].removesuffix("/apis/ccompat/v7")
    result = command(deployment.environ, "check", SCHEMA_REGISTRY_URL=url)
    assert result.returncode == 4
    assert "there is no Schema Registry at" in result.stdout


def test_proxies_of_the_environment_are_ignored(sqlite_deployment: Deployment) -> None:
    """The registry is called directly."""
    deployment = sqlite_deployment
    ids = deployment.record(new_rows(10))
    deployment.relay(HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_an_endless_answer_is_cut_off(sqlite_deployment: Deployment) -> None:
    """An answer that is larger than a registry's is not a registry's."""
    deployment = sqlite_deployment
    with web_server(200, b'{"id":' + b" " * 65_536, endless=True) as url:
        result = command(deployment.environ, "check", SCHEMA_REGISTRY_URL=url)
        assert "there is no Schema Registry at" in result.stdout
