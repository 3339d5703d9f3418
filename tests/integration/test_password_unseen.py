"""No process shows the database password, however it is written and whatever fails."""

import os
import re
import subprocess
import sys

import pytest

from testkit import ROOT
from testkit.command_line import command, expect
from testkit.ports import free_port

COMMANDS = ("status", "list --all", "check", "audit", "migrate", "run", "show 1", "prune --all --reason test --yes")
RELAY = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9"}


def unencoded() -> list[str]:
    """Return URLs whose unencoded passwords change where the parts of the URL begin and end."""
    return [
        f"postgres://me:qzx{character}zqx@127.0.0.1:9/name" for character in ("@", "#", "%", "/", "?", "@x:y/", "#@")
    ]


@pytest.mark.parametrize("url", unencoded())
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_hides_an_unencoded_password(line: str, url: str) -> None:
    """The error says how to encode it."""
    ended = command({**RELAY, "DATABASE_URL": url}, *line.split())
    printed = ended.stdout + ended.stderr
    assert ended.returncode == (4 if line == "check" else 1), printed
    assert "DATABASE_URL=***: expected " in printed
    assert "@ as %40" in printed
    assert not re.search("qzx|zqx", printed), printed


@pytest.mark.parametrize("line", ["status", "list --all", "check", "migrate"])
def test_a_command_hides_the_password_of_an_unreachable_server(line: str) -> None:
    """The driver's error names the server, not the credentials."""
    for url in (
        f"postgres://me:qzx%40zqx@127.0.0.1:{free_port()}/name",
        f"postgres://me:qzx%40zqx@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/name",
        f"postgres://me@127.0.0.1:{free_port()}/name?password=qzx%40zqx",
    ):
        ended = command({"DATABASE_URL": url}, *line.split())
        assert ended.returncode == (4 if line == "check" else 1), ended
        assert not re.search("qzx|zqx", ended.stdout + ended.stderr), ended


@pytest.mark.parametrize("url", unencoded())
def test_the_web_process_hides_an_unencoded_password(url: str) -> None:
    """It does not start; one line says how to encode the password."""
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.factory:create_app_from_environ()"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "CXONE_WEBHOOK_SECRETS": "tests=0123456789abcdef"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expect(done, 1)
    assert done.stdout == ""
    assert done.stderr.startswith("DATABASE_URL=***: expected ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not re.search("qzx|zqx", done.stderr), done.stderr
