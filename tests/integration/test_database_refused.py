"""Databases that an outbox cannot rest on, or that are not there: what each process says, and whether it starts."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg
import pytest
import requests

from testkit import ROOT
from testkit.deployment import Deployment, settings_for
from testkit.services import ExternalService, Kafka, Postgres, Registry
from testkit.services.process import free_port
from testkit.waiting import wait_until
from testkit.web_process import SECRET

WEB = (sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.factory:create_app_from_environ()")
RELAY = (sys.executable, "-m", "relay", "run")
LIST = (sys.executable, "-m", "relay", "list", "--all")


@pytest.fixture
def environ(
    kafka: Kafka | ExternalService, registry: Registry | ExternalService, postgres: Postgres | ExternalService
) -> dict[str, str]:
    """Settings for every process, on a database that has been named and not made."""
    url = f"{postgres.url.rsplit('/', 1)[0]}/missing_{uuid.uuid4().hex[:8]}"
    settings = settings_for(kafka, registry, url.replace("postgresql://", "postgresql+psycopg://"))
    return {**settings, "CXONE_WEBHOOK_SECRETS": f"tests={SECRET}", "LOG_FORMAT": "json"}


@pytest.mark.parametrize("command", [WEB, RELAY, LIST], ids=["web", "relay", "list"])
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_refused(
    encoding: str, command: tuple[str, ...], environ: dict[str, str], postgres: Postgres | ExternalService
) -> None:
    """Exit code 1, one line, no traceback."""
    name = environ["DATABASE_URL"].rsplit("/", 1)[1]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        made = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.execute(f'CREATE DATABASE "{name}" {made}')
    settings = {**os.environ, **environ, "PORT": str(free_port())}
    ended = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert encoding in line
    assert "ENCODING 'UTF8'" in line


def actions(log: str, text: str) -> set[str]:
    """The actions of the log's lines that hold a text."""
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {event["action"] for event in events if text in event["event"] and "action" in event}


def test_a_database_that_is_missing_is_named(
    environ: dict[str, str], tmp_path: Path, deployments: list[Deployment]
) -> None:
    """Web and relay start, wait, and give the server's reason; nobody is told to migrate."""
    deployment = Deployment(environ["DATABASE_URL"], environ, {}, tmp_path)
    deployments.append(deployment)
    web, relay = deployment.web(), deployment.relay()
    missing = f'database "{environ["DATABASE_URL"].rsplit("/", 1)[1]}" does not exist'
    assert web.post({"id": "i", "channel": "voice"}).status_code == 503
    answer = requests.get(f"{web.base}/readyz", timeout=30)
    assert (answer.status_code, "schema" in answer.text) == (503, False)
    relay.wait_degraded("database", missing)
    logged = {"not_committed", "readiness", "backlog_not_counted"}
    wait_until(lambda: logged <= actions(web.log.read_text(), missing), "post, readiness and backlog each have a line")
    shown = subprocess.run(LIST, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert (shown.returncode, missing in shown.stderr) == (1, True)
    for told in (web.log.read_text(), relay.log.read_text(), shown.stderr):
        assert "upgrade" not in told
        assert "migrate" not in told


def test_a_first_start_without_a_file_names_the_command_that_makes_it(
    environ: dict[str, str], tmp_path: Path, deployments: list[Deployment]
) -> None:
    """On SQLite, where nothing was ever there to be put back, the relay waits and names relay migrate."""
    url = f"sqlite:///{tmp_path / 'outbox.db'}"
    deployments.append(Deployment(url, {**environ, "DATABASE_URL": url}, {}, tmp_path))
    deployments[-1].relay().wait_degraded("database", "run relay migrate")
    assert not (tmp_path / "outbox.db").exists()
