"""The console as it runs in production: gunicorn on a real socket."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from outbox.db.engine import create_outbox_engine
from outbox.operators.change import Operations
from outbox.store import Store
from testkit import ROOT
from testkit.console import KEY, PASSWORD, write_users
from testkit.databases import NewDatabase
from testkit.outbox import assert_placed, record, set_state, states
from testkit.ports import free_port
from testkit.rows import new_row
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


@contextmanager
def running(settings: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a console for the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(COMMAND, cwd=ROOT, env=settings, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def is_alive(process: subprocess.Popen[bytes], base: str) -> bool:
    """Return whether it answers; fail if it has ended."""
    assert process.poll() is None
    try:
        return requests.get(f"{base}/healthz", timeout=2).ok
    except requests.RequestException:
        return False


def token(browser: requests.Session, address: str) -> dict[str, str]:
    """Return the token of a page's forms, as their field."""
    (found,) = set(re.findall(r'name="csrf_token" value="([^"]+)"', browser.get(address, timeout=10).text))
    return {"csrf_token": found}


def test_it_starts_answers_and_ends(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """It is alive and ready, sends strangers to the login, logs no address of a page, and ends on SIGTERM."""
    port, log = free_port(), tmp_path / "log"
    base = f"http://127.0.0.1:{port}"
    with running(environ(tmp_path, new_sqlite(), port), log) as process:
        wait_until(lambda: is_alive(process, base), "the console is up")
        assert requests.get(f"{base}/readyz", timeout=10).json() == {"status": "ready"}
        answer = requests.get(f"{base}/rows?channel=secret-query", timeout=10, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        assert requests.get(f"{base}/login", timeout=10).ok
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "secret-query" not in log.read_text()


def test_a_change_ends_with_the_process(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """On SIGTERM the chunk in hand is finished, the rest is left as it was, and the audit log has what was done."""
    url, port = new_sqlite(), free_port()
    engine = create_outbox_engine(url)
    record(Store(engine), [new_row(f"i-{number}") for number in range(100)])
    set_state(engine, "id > 0", "parked")
    with running(environ(tmp_path, url, port), tmp_path / "log") as process, requests.Session() as browser:
        base = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_alive(process, base), "the console is up")
        sign_in = {"username": "operator", "password": PASSWORD}
        assert browser.post(f"{base}/login", data={**token(browser, f"{base}/login"), **sign_in}, timeout=10).ok
        asked = {**token(browser, f"{base}/"), "verb": "retry", "state": "parked"}
        plan = browser.post(f"{base}/plans", data=asked, timeout=10)
        confirmed = {**token(browser, plan.url), "reason": "slowly", "rate": "1"}
        change = browser.post(plan.url, data=confirmed, timeout=10)
        assert "running" in change.text
        wait_until(lambda: "pending" in states(engine).values(), "a row is changed")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    retried = [row_id for row_id, state in states(engine).items() if state == "pending"]
    assert 0 < len(retried) < 100
    assert sorted(row_id for entry in Operations(engine).audit() for row_id in json.loads(entry.row_ids)) == retried
    assert_placed(engine)
    engine.dispose()


def test_a_wrong_setting_stops_the_start(tmp_path: Path) -> None:
    """With one line for each, and no traceback."""
    settings = environ(tmp_path, f"sqlite:///{tmp_path}/o.db", 1)
    for changed, message in (
        ({"CONSOLE_AUTH": "oidc"}, "CONSOLE_AUTH=oidc also needs CONSOLE_OIDC_ISSUER, CONSOLE_OIDC_CLIENT_ID"),
        ({"CONSOLE_USERS_FILE": str(tmp_path / "none")}, "cannot be read (FileNotFoundError)"),
        ({"CONSOLE_HOST": "192.0.2.1"}, "CONSOLE_HOST=192.0.2.1: expected an address of this machine"),
    ):
        ended = subprocess.run(
            COMMAND, cwd=ROOT, env={**settings, **changed}, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
