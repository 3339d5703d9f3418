"""The database's password is seen nowhere, however it is written and whatever goes wrong."""

import os
import re
import subprocess
import sys

import pytest

from testkit import ROOT
from testkit.command_line import command
from testkit.services.process import free_port

COMMANDS = ("status", "list --all", "check", "audit", "migrate", "run", "show 1", "prune --all --reason test --yes")
RELAY = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9"}


def unencoded() -> list[str]:
    """Passwords that move the borders of the URL's parts."""
    return [
        f"postgres://me:qzx{character}zqx@127.0.0.1:9/name" for character in ("@", "#", "%", "/", "?", "@x:y/", "#@")
    ]


@pytest.mark.parametrize("url", unencoded())
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_shows_nothing_of_a_password_that_is_not_encoded(verb: str, url: str) -> None:
    """One line that says how to encode it."""
    ended = command({**RELAY, "DATABASE_URL": url}, *verb.split())
    assert ended.returncode in (1, 4)
    assert "DATABASE_URL=***: expected " in ended.stdout + ended.stderr
    assert "@ as %40" in ended.stdout + ended.stderr
    assert not re.search("qzx|zqx", ended.stdout + ended.stderr)


@pytest.mark.parametrize("verb", ["status", "list --all", "check", "migrate"])
def test_a_command_shows_no_password_of_a_server_that_is_away(verb: str) -> None:
    """The driver's error names the server, not the login."""
    for url in (
        f"postgres://me:qzx%40zqx@127.0.0.1:{free_port()}/name",
        f"postgres://me:qzx%40zqx@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/name",
        f"postgres://me@127.0.0.1:{free_port()}/name?password=qzx%40zqx",
    ):
        ended = command({"DATABASE_URL": url}, *verb.split())
        assert ended.returncode in (1, 4), ended
        assert not re.search("qzx|zqx", ended.stdout + ended.stderr), ended


@pytest.mark.parametrize("url", unencoded())
def test_the_web_process_shows_nothing_of_it(url: str) -> None:
    """It does not start, and says how to encode it."""
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.factory:create_app_from_environ()"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "CXONE_WEBHOOK_SECRETS": "tests=0123456789abcdef"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("DATABASE_URL=***: expected ")
    assert (len(done.stderr.splitlines()), re.search("qzx|zqx", done.stderr)) == (1, None)
