"""The console as it runs in production: gunicorn on a real socket."""

import json
import signal
import subprocess
from pathlib import Path

import requests

from outbox.db.engine import create_outbox_engine
from outbox.operators.change import Operations
from outbox.store import Store
from testkit import ROOT
from testkit.console_process import COMMAND, Browser, console_environ, running_console
from testkit.databases import NewDatabase
from testkit.outbox import assert_placed, record, set_state, states
from testkit.rows import new_row
from testkit.waiting import wait_until


def test_it_starts_answers_and_ends(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """It is alive and ready, sends strangers to the login, logs no address of a page, and ends on SIGTERM."""
    with running_console(new_sqlite(), tmp_path) as console:
        assert requests.get(f"{console.base}/readyz", timeout=10).json() == {"status": "ready"}
        answer = requests.get(f"{console.base}/rows?channel=secret-query", timeout=10, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        assert requests.get(f"{console.base}/login", timeout=10).ok
        console.process.send_signal(signal.SIGTERM)
        assert console.process.wait(30) == 0
    assert "secret-query" not in console.log.read_text()


def test_a_change_ends_with_the_process(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """On SIGTERM the chunk in hand is finished, the rest is left as it was, and the audit log has what was done."""
    url = new_sqlite()
    engine = create_outbox_engine(url)
    record(Store(engine), [new_row(f"i-{number}") for number in range(100)])
    set_state(engine, "id > 0", "parked")
    with running_console(url, tmp_path) as console:
        browser = Browser(console, "operator")
        plan = browser.post("/plans", verb="retry", state="parked").headers["Location"]
        change = browser.post(plan, reason="slowly", rate="1").headers["Location"]
        assert "running" in browser.get(change).text
        wait_until(lambda: "pending" in states(engine).values(), "a row is changed")
        console.process.send_signal(signal.SIGTERM)
        assert console.process.wait(30) == 0
    retried = [row_id for row_id, state in states(engine).items() if state == "pending"]
    assert 0 < len(retried) < 100
    assert sorted(row_id for entry in Operations(engine).audit() for row_id in json.loads(entry.row_ids)) == retried
    assert_placed(engine)
    engine.dispose()


def test_a_wrong_setting_stops_the_start(tmp_path: Path) -> None:
    """With one line for each, and no traceback."""
    settings = console_environ(tmp_path, f"sqlite:///{tmp_path}/o.db", 1)
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
