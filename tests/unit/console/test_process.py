"""The console as it runs in production: gunicorn on a real socket."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import requests

from testkit import ROOT
from testkit.console import KEY, write_users
from testkit.databases import NewDatabase
from testkit.services.process import free_port
from testkit.waiting import wait_until

COMMAND = [
    *(sys.executable, "-m", "gunicorn"),
    *("-c", "python:console.gunicorn_conf", "console.factory:create_app_from_environ()"),
]


def environ(tmp_path: Path, url: str, port: int) -> dict[str, str]:
    """Return the settings of a console."""
    return {
        **os.environ,
        "DATABASE_URL": url,
        "CONSOLE_AUTH": "file",
        "CONSOLE_SECRET_KEY": KEY,
        "CONSOLE_USERS_FILE": str(write_users(tmp_path)),
        "CONSOLE_PORT": str(port),
        "LOG_FORMAT": "json",
    }


def test_it_starts_answers_and_ends(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """It is alive and ready, sends strangers to the login, logs no address of a page, and ends on SIGTERM."""
    port, log = free_port(), tmp_path / "log"
    base = f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            COMMAND, cwd=ROOT, env=environ(tmp_path, new_sqlite(), port), stdout=file, stderr=file
        )

    def is_alive() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"{base}/healthz", timeout=2).ok
        except requests.RequestException:
            return False

    try:
        wait_until(is_alive, "the console is up")
        assert requests.get(f"{base}/readyz", timeout=10).json() == {"status": "ready"}
        answer = requests.get(f"{base}/rows?channel=secret-query", timeout=10, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        assert requests.get(f"{base}/login", timeout=10).ok
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    assert code == 0
    assert "secret-query" not in log.read_text()


def test_a_wrong_setting_stops_the_start(tmp_path: Path) -> None:
    """With one line for each, and no traceback."""
    settings = environ(tmp_path, f"sqlite:///{tmp_path}/o.db", 1)
    for changed, message in (
        ({"CONSOLE_AUTH": "oidc"}, "OpenID Connect is not available"),
        ({"CONSOLE_USERS_FILE": str(tmp_path / "none")}, "cannot be read (FileNotFoundError)"),
        ({"CONSOLE_HOST": "192.0.2.1"}, "CONSOLE_HOST=192.0.2.1: expected an address of this machine"),
    ):
        ended = subprocess.run(
            COMMAND, cwd=ROOT, env={**settings, **changed}, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
