"""Unusable and missing databases: what each process reports, and whether it starts."""

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
from testkit.command_line import expect
from testkit.deployment import Deployment, settings_for
from testkit.ports import free_port
from testkit.services import ExternalService, Kafka, Postgres, Registry
from testkit.waiting import wait_until
from testkit.web_process import SECRET

WEB = (sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.factory:create_app_from_environ()")
RELAY = (sys.executable, "-m", "relay", "run")
LIST = (sys.executable, "-m", "relay", "list", "--all")


@pytest.fixture
def environ(
    kafka: Kafka | ExternalService, registry: Registry | ExternalService, postgres: Postgres | ExternalService
) -> dict[str, str]:
    """Return settings for every process, with a database that does not exist."""
    url = f"{postgres.url.rsplit('/', 1)[0]}/missing_{uuid.uuid4().hex[:8]}"
    settings = settings_for(kafka, registry, url.replace("postgresql://", "postgresql+psycopg://"))
    return {**settings, "CXONE_WEBHOOK_SECRETS": f"tests={SECRET}", "LOG_FORMAT": "json"}


@pytest.mark.parametrize("command", [WEB, RELAY, LIST], ids=["web", "relay", "list"])
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_with_another_encoding_is_refused(
    encoding: str, command: tuple[str, ...], environ: dict[str, str], postgres: Postgres | ExternalService
) -> None:
    """Each process exits with 1 and one line that names the encoding."""
    name = environ["DATABASE_URL"].rsplit("/", 1)[1]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        options = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.execute(f'CREATE DATABASE "{name}" {options}')
    settings = {**os.environ, **environ, "PORT": str(free_port())}
    ended = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=60)
    expect(ended, 1)
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert encoding in line
    assert "ENCODING 'UTF8'" in line


def actions(log: str, text: str) -> set[str]:
    """Return the actions of the log lines that contain a text."""
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {event["action"] for event in events if text in event["event"] and "action" in event}


def test_a_missing_database_is_named(environ: dict[str, str], tmp_path: Path, deployments: list[Deployment]) -> None:
    """Web and relay start, wait and report the server's error; nothing suggests a migration."""
    deployment = Deployment(environ["DATABASE_URL"], environ, {}, tmp_path)
    deployments.append(deployment)
    web, relay = deployment.web(), deployment.relay()
    missing = f'database "{environ["DATABASE_URL"].rsplit("/", 1)[1]}" does not exist'
    assert web.post({"id": "i", "channel": "voice"}).status_code == 503
    answer = requests.get(f"{web.base}/readyz", timeout=30)
    assert answer.status_code == 503
    assert "schema" not in answer.text
    relay.wait_degraded("database", missing)
    logged = {"commit_failed", "not_ready", "backlog_count_failed"}
    wait_until(lambda: logged <= actions(web.log.read_text(), missing), "post, readiness and backlog are logged")
    shown = subprocess.run(LIST, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    expect(shown, 1, stderr=missing)
    for printed in (web.log.read_text(), relay.log.read_text(), shown.stderr):
        assert "upgrade" not in printed
        assert "migrate" not in printed


def test_a_missing_sqlite_file_leads_to_relay_migrate(
    environ: dict[str, str], tmp_path: Path, deployments: list[Deployment]
) -> None:
    """Before the first migration the relay waits, names relay migrate and creates no file."""
    url = f"sqlite:///{tmp_path / 'outbox.db'}"
    deployments.append(Deployment(url, {**environ, "DATABASE_URL": url}, {}, tmp_path))
    deployments[-1].relay().wait_degraded("database", "run relay migrate")
    assert not (tmp_path / "outbox.db").exists()
