"""The web process dies, is told to stop, or loses the database at the worst moment: every 202 is stored."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from outbox.engine import create_outbox_engine
from tests.conftest import ROOT, NewDatabase
from tests.support import wait_until
from tests.web_process import SECRET, WebProcess

SENDERS = 8


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[WebProcess]]:
    """Web processes, killed with the test."""
    processes: list[WebProcess] = []
    yield processes
    for web in processes:
        if web.process.poll() is None:
            for child in psutil.Process(web.process.pid).children():
                child.kill()
            web.process.kill()
        web.process.wait()


def stored(url: str) -> set[int]:
    """Ids in the outbox."""
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        found = {row.id for row in connection.exec_driver_sql("SELECT id FROM outbox")}
    engine.dispose()
    return found


class Load:
    """Senders that post until the web process is gone.

    Args:
        web: that they post to.
    """

    def __init__(self, web: WebProcess) -> None:
        self._web = web
        self.accepted: list[int] = []
        self.refused: list[int] = []
        self._threads = [threading.Thread(target=self._send, args=(number,), daemon=True) for number in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self, sender: int) -> None:
        for number in range(100_000):
            try:
                answer = self._web.post({"id": f"{sender}-{number}", "channel": "voice"})
            except requests.RequestException:
                return
            if answer.status_code == 202:
                self.accepted.append(answer.json()["outboxId"])
            else:
                self.refused.append(answer.status_code)

    def wait(self) -> None:
        """Until the last sender has given up."""
        for thread in self._threads:
            thread.join()


def test_a_kill_under_load_loses_nothing_that_was_accepted(
    new_database: NewDatabase, started: list[WebProcess], tmp_path: Path
) -> None:
    """Kill -9 of all its processes: every id that was answered with 202 is in the outbox."""
    url = new_database(1)
    web = WebProcess({"DATABASE_URL": url, "WEB_CONCURRENCY": "2"}, tmp_path / "web.log")
    started.append(web)
    load = Load(web)
    wait_until(lambda: len(load.accepted) > 200, "the load is on")
    processes = [web.process.pid, *(child.pid for child in psutil.Process(web.process.pid).children())]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    web.process.wait()
    load.wait()
    assert set(load.accepted) <= stored(url)
    assert len(set(load.accepted)) == len(load.accepted)


def test_sigterm_under_load_answers_what_it_stores(
    new_database: NewDatabase, started: list[WebProcess], tmp_path: Path
) -> None:
    """While it drains it fails nobody with a 5xx, and what is stored was answered with 202."""
    url = new_database(1)
    web = WebProcess({"DATABASE_URL": url}, tmp_path / "web.log")
    started.append(web)
    load = Load(web)
    wait_until(lambda: len(load.accepted) > 100, "the load is on")
    web.signal(signal.SIGTERM)
    assert web.process.wait(30) == 0
    load.wait()
    assert load.refused == []
    assert set(load.accepted) == stored(url)


class Proxy:
    """Stands between a process and PostgreSQL, and can swallow the answer to a commit.

    Args:
        port: of PostgreSQL on this machine.
    """

    def __init__(self, port: int) -> None:
        self._upstream_port = port
        self.swallow = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream_port)) as server:
            swallow = threading.Event()
            up = threading.Thread(target=self._up, args=(client, server, swallow), daemon=True)
            up.start()
            while (data := server.recv(65536)) and not swallow.is_set():
                client.sendall(data)
            for side in (client, server):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            up.join()

    def _up(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.swallow and b"INSERT INTO outbox" in data:  # its commit is in the same message
                    self.swallow = False
                    swallow.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End it once its connections have ended."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


def test_a_commit_without_an_answer_is_503_and_its_repetition_finds_the_row(
    new_postgresql: NewDatabase, started: list[WebProcess], tmp_path: Path
) -> None:
    """The database committed, the answer was lost: not accepted, and stored once all the same."""
    url = new_postgresql(1)
    port = url.rsplit(":", 1)[1].split("/")[0]
    proxy = Proxy(int(port))
    web = WebProcess({"DATABASE_URL": url.replace(f":{port}/", f":{proxy.port}/")}, tmp_path / "web.log")
    started.append(web)
    assert web.post({"id": "first", "channel": "voice"}).status_code == 202
    proxy.swallow = True
    body = {"id": "second", "channel": "voice"}
    answer = web.post(body)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert len(stored(url)) == 2
    again = web.post(body)
    assert (again.status_code, again.json()["duplicate"]) == (202, True)
    assert len(stored(url)) == 2
    assert web.stop() == 0
    proxy.close()


def test_postgresql_down_is_503_and_it_recovers_without_a_restart(
    own_postgres: Any, started: list[WebProcess], tmp_path: Path
) -> None:
    """Neither the start nor the running process needs the database to be there."""
    from tests.conftest import migrate

    url = own_postgres.create_database("outbox").replace("postgresql://", "postgresql+psycopg://")
    migrate(url, 1)
    own_postgres.process.kill()
    web = WebProcess({"DATABASE_URL": url}, tmp_path / "web.log")
    started.append(web)
    body = {"id": "i", "channel": "voice"}
    assert web.post(body).status_code == 503
    assert requests.get(f"{web.base}/readyz", timeout=30).status_code == 503
    own_postgres.start()
    assert web.post(body).status_code == 202
    wait_until(lambda: requests.get(f"{web.base}/readyz", timeout=30).ok, "it is ready again")
    lines = [json.loads(line) for line in web.log.read_text().splitlines()]
    assert [line["action"] for line in lines if line.get("logger") == "app.recorder"] == [
        "not_committed",
        "committed_again",
    ]


def test_metrics_of_all_processes_are_added_up(
    new_sqlite: NewDatabase, started: list[WebProcess], tmp_path: Path
) -> None:
    """Whichever process answers, it tells of all, also of one that has died; a folder that is given stays."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "counter_1.db").write_bytes(b"left over")
    (folder / "other").touch()
    environ = {"DATABASE_URL": new_sqlite(), "WEB_CONCURRENCY": "2", "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    web = WebProcess(environ, tmp_path / "web.log")
    started.append(web)
    for number in range(30):
        assert web.post({"id": number, "channel": "voice"}).status_code == 202
    line = 'outbox_webhook_requests_total{outcome="accepted",secret="tests"}'
    assert web.metric(line) == 30
    assert 1 <= web.metric("outbox_ingest_commit_seconds_count") <= 30
    psutil.Process(web.process.pid).children()[0].kill()
    wait_until(lambda: len(psutil.Process(web.process.pid).children()) == 2, "the process is replaced")
    assert web.metric(line) == 30
    assert web.stop() == 0
    assert (folder / "other").exists()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"CXONE_WEBHOOK_SECRETS": ""}, "CXONE_WEBHOOK_SECRETS or CXONE_WEBHOOK_SECRET: neither is set"),
        ({"CXONE_WEBHOOK_SECRETS": "a=canary"}, "CXONE_WEBHOOK_SECRETS=***: part 1 has 6 bytes"),
        ({"DATABASE_URL": "mysql://u:canary@h/d"}, "DATABASE_URL=***: takes sqlite:///file or postgresql://"),
        ({"DATABASE_URL": "sqlite:////nowhere/at/all.db"}, "folder /nowhere/at does not exist"),
        ({"PORT": "http"}, "PORT='http': "),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(environ: dict[str, str], told: str) -> None:
    """Exit code 1, the variable's name, no traceback, no secret."""
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        "python:app.gunicorn_conf",
        "app.factory:create_app_from_environ()",
    ]
    good = {"CXONE_WEBHOOK_SECRETS": f"a={SECRET}", "DATABASE_URL": "sqlite:///outbox.db"}
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **good, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert told in line
    assert "canary" not in line


def test_the_web_process_never_loads_kafkas_client() -> None:
    """Nor does anything that it imports."""
    code = "import sys, app.factory, app.gunicorn_worker; sys.exit('confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
