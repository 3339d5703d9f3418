"""Log lines of real processes have the documented schema and actions, whatever happens."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests

from testkit import ROOT
from testkit.collector import Collector
from testkit.console import PASSWORD
from testkit.console_process import ConsoleProcess
from testkit.deployment import Deploy, Deployment
from testkit.log_schema import check_lines
from testkit.ports import free_port
from testkit.rows import new_row
from testkit.services import ExternalService, Kafka
from testkit.simulator import Simulator
from testkit.waiting import wait_until
from testkit.web_process import SECRET, WebProcess

TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
SPANS = {"OTEL_TRACES_SAMPLER": "no-such-sampler"}
"""The SDK warns of it."""
PERSONAL = "canary@example.com"


def log_lines(path: Path) -> list[str]:
    """The lines of a process's output so far."""
    return path.read_text().splitlines()


def wait_for(path: Path, *actions: str) -> None:
    """Wait until lines with these actions are logged."""
    for action in actions:
        wait_until(partial(_has_action, path, action), f"{action} is logged in {path}")


def _has_action(path: Path, action: str) -> bool:
    return f'"action": "{action}"' in path.read_text()


@pytest.fixture
def deployment(
    new_sqlite: Callable[..., str], kafka: Kafka | ExternalService, deploy: Deploy, simulator: Simulator
) -> Deployment:
    """An outbox on SQLite, whose relay calls an endpoint that rejects everything."""
    simulator.behave("score", "422")
    return deploy(new_sqlite(), kafka, **simulator.inference)


@pytest.fixture
def console(deployment: Deployment, tmp_path: Path) -> Iterator[ConsoleProcess]:
    """A console of the same outbox."""
    console = ConsoleProcess(deployment.url, tmp_path, LOG_LEVEL="DEBUG", CONSOLE_THREADZ="4").start()
    yield console
    console.stop()


def sign_in(console: ConsoleProcess, password: str) -> dict[str, str]:
    """Sign in through the form; returns the headers of the session."""
    page = requests.get(f"{console.origin}/login", timeout=30)
    (token,) = TOKEN.findall(page.text)
    headers = {"Cookie": "; ".join(f"{each.name}={each.value}" for each in page.cookies), "Referer": console.origin}
    form = {"csrf_token": token, "username": "viewer", "password": password}
    answer = requests.post(f"{console.origin}/login", form, headers=headers, allow_redirects=False, timeout=30)
    return {"Cookie": "; ".join(f"{each.name}={each.value}" for each in answer.cookies)}


def kill_a_worker(web: WebProcess) -> None:
    """Kill the process that answers requests, and wait for its successor."""
    (worker,) = psutil.Process(web.process.pid).children()
    worker.kill()
    wait_until(lambda: worker.pid not in [p.pid for p in psutil.Process(web.process.pid).children()], "it is replaced")
    wait_until(lambda: web.raw(b"GET /healthz HTTP/1.0\r\n\r\n").status == 200, "its successor answers")


def test_every_line_of_every_process_has_the_schema(
    deployment: Deployment, console: ConsoleProcess, collector: Collector
) -> None:
    """Of web, relay and console, in good and bad events, at the lowest level, and with spans."""
    settings = {**collector.environ, **SPANS, "LOG_LEVEL": "DEBUG", "KAFKA_TOPICC": "x"}
    deployment.environ |= settings
    web = deployment.web(**settings)
    body = {"id": PERSONAL, "channel": "voice", "customer": {"email": PERSONAL}}
    answers = [web.post(body), web.post(body, secret="not-the-secret"), web.post([]), web.post({**body, "id": "{id}"})]
    assert [answer.status_code for answer in answers] == [202, 401, 422, 202]
    assert web.raw(b"canary\r\n\r\n").status == 400
    kill_a_worker(web)
    deployment.record([new_row("too large", customer_email=secrets.token_hex(1_000_000))])
    relay = deployment.relay()
    wait_for(relay.log, "call_parked", "parked")
    sign_in(console, "not the password")
    session = sign_in(console, PASSWORD)
    deployment.execute("ALTER TABLE outbox_identity RENAME TO elsewhere")
    deployment.execute("ALTER TABLE outbox RENAME TO outbox_elsewhere")
    assert web.post({**body, "id": "later"}).status_code == 503
    assert requests.get(f"{console.origin}/rows", headers=session, timeout=30).status_code in (500, 503)
    wait_for(relay.log, "degraded")
    web.stop()
    relay.stop()
    console.stop()
    found = {path: check_lines(log_lines(path)) for path in (web.log, relay.log, console.log)}
    actions = {path: {line["action"] for line in lines} for path, lines in found.items()}
    assert actions[web.log] >= {"refused", "placeholders", "not_http", "unknown_setting", "gunicorn", "library",
                                "commit_failed"}  # fmt: skip
    assert actions[relay.log] >= {"started", "taken", "parked", "call_parked", "degraded", "unknown_setting", "library",
                                  "stopped"}  # fmt: skip
    assert actions[console.log] >= {"signed_in", "login_refused", "unknown_setting", "gunicorn"}
    assert actions[console.log] & {"database_failed", "unexpected"}
    for path in found:
        assert not [word for word in (PERSONAL, SECRET, "canary", PASSWORD) if word in path.read_text()]


def test_an_application_that_fails_at_start_is_logged(tmp_path: Path) -> None:
    """An exception that nobody catches is a log line with its kind and place, and without its message."""
    command = [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "os:listdir('/canary')"]
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}/outbox.db", "CXONE_WEBHOOK_SECRETS": f"tests={SECRET}"}
    environ = {**os.environ, **settings, "WEB_HOST": "127.0.0.1", "PORT": str(free_port()), "LOG_FORMAT": "json"}
    ended = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    lines = check_lines(ended.stderr.splitlines())
    assert [line["exception"][0]["exc_type"] for line in lines if line["action"] == "uncaught"] == [
        "builtins.FileNotFoundError"
    ]
    assert "canary" not in ended.stderr
