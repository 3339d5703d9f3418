"""Every interaction answered with 202 is stored, through kills, restarts and outages of the database."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import requests
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from testkit import ROOT
from testkit.databases import NewDatabase
from testkit.response_times import assert_none_waited
from testkit.waiting import wait_until
from testkit.web_fixtures import StartWeb
from testkit.web_process import PATH, SECRET, WebProcess, read_response

SENDERS = 8


def stored(url: str) -> set[int]:
    """Ids of the rows in the outbox."""
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        found = {row.id for row in connection.exec_driver_sql("SELECT id FROM outbox")}
    engine.dispose()
    return found


class Load:
    """Clients that post until the web process is gone."""

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
        """Wait for the last client to stop."""
        for thread in self._threads:
            thread.join()


def test_a_kill_under_load_loses_nothing_that_was_accepted(new_database: NewDatabase, start_web: StartWeb) -> None:
    """All its processes are killed: every id that was returned with 202 is in the outbox."""
    url = new_database(1)
    web = start_web(url, WEB_CONCURRENCY="2")
    load = Load(web)
    wait_until(lambda: len(load.accepted) > 200, "requests are accepted")
    processes = [web.process.pid, *(child.pid for child in psutil.Process(web.process.pid).children())]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    web.process.wait()
    load.wait()
    assert set(load.accepted) <= stored(url)
    assert len(set(load.accepted)) == len(load.accepted)


def test_sigterm_under_load_fails_no_request(new_database: NewDatabase, start_web: StartWeb) -> None:
    """No response is a 5xx, and exactly the rows answered with 202 are stored."""
    url = new_database(1)
    web = start_web(url)
    load = Load(web)
    wait_until(lambda: len(load.accepted) > 100, "requests are accepted")
    web.signal(signal.SIGTERM)
    assert web.process.wait(30) == 0
    load.wait()
    assert load.refused == []
    assert set(load.accepted) == stored(url)


class Proxy:
    """A proxy to PostgreSQL that can drop the response to a commit.

    Args:
        port: PostgreSQL's port.
    """

    def __init__(self, port: int) -> None:
        self._upstream_port = port
        self.drop_response = False
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
            drop_response = threading.Event()
            up = threading.Thread(target=self._up, args=(client, server, drop_response), daemon=True)
            up.start()
            while (data := server.recv(65536)) and not drop_response.is_set():
                client.sendall(data)
            for side in (client, server):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            up.join()

    def _up(self, client: socket.socket, server: socket.socket, drop_response: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.drop_response and b"INSERT INTO outbox" in data:  # with its commit in the same message
                    self.drop_response = False
                    drop_response.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Stop, and wait for the connections to end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


def test_a_commit_whose_response_is_lost_is_found(new_postgresql: NewDatabase, start_web: StartWeb) -> None:
    """The second attempt finds the row that the first one committed, and does not store another."""
    url = new_postgresql(1)
    port = url.rsplit(":", 1)[1].split("/")[0]
    proxy = Proxy(int(port))
    web = start_web(url.replace(f":{port}/", f":{proxy.port}/"))
    assert web.post({"id": "first", "channel": "voice"}).status_code == 202
    proxy.drop_response = True
    body = {"id": "second", "channel": "voice"}
    answer = web.post(body)
    assert answer.status_code == 202, answer.text
    assert "duplicate" not in answer.json()
    assert answer.json()["outboxId"] in stored(url)
    assert len(stored(url)) == 2
    again = web.post(body)
    assert again.status_code == 202, again.text
    assert again.json()["duplicate"] is True
    assert len(stored(url)) == 2
    assert web.stop() == 0
    proxy.close()


def test_it_recovers_from_an_outage_of_postgresql(own_postgres: Any, start_web: StartWeb) -> None:
    """It starts and answers 503 while PostgreSQL is down, and accepts interactions once it is up."""
    from testkit.databases import migrate

    url = own_postgres.create_database("outbox").replace("postgresql://", "postgresql+psycopg://")
    migrate(url, 1)
    own_postgres.process.kill()
    web = start_web(url)
    body = {"id": "i", "channel": "voice"}
    assert web.post(body).status_code == 503
    assert requests.get(f"{web.base}/readyz", timeout=30).status_code == 503
    own_postgres.start()
    assert web.post(body).status_code == 202
    wait_until(lambda: requests.get(f"{web.base}/readyz", timeout=30).ok, "it is ready again")
    lines = [json.loads(line) for line in web.log.read_text().splitlines()]
    assert [line["action"] for line in lines if line.get("logger") == "app.group_commit"] == [
        "commit_failed",
        "commit_recovered",
    ]


ACCEPTED = 'outbox_webhook_requests_total{outcome="accepted",secret="tests"}'


def test_metrics_of_all_processes_are_added_up(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """A scrape of any process includes all, and those that were killed or replaced."""
    web = start_web(new_sqlite(), WEB_CONCURRENCY="2")
    for number in range(30):
        assert web.post({"id": number, "channel": "voice"}).status_code == 202
    assert web.metric(ACCEPTED) == 30
    assert 1 <= web.metric("outbox_ingest_commit_seconds_count") <= 30
    assert web.metric('outbox_ingest_commit_seconds_bucket{le="+Inf"}') <= 30
    before = workers(web)
    before[0].kill()
    wait_until(lambda: len(workers(web)) == 2, "the process is replaced")
    assert web.metric(ACCEPTED) == 30
    web.signal(signal.SIGHUP)
    wait_until(lambda: len(workers(web)) == 2 and not set(workers(web)) & set(before), "all are replaced")
    for number in range(30, 60):
        assert web.post({"id": number, "channel": "voice"}).status_code == 202
    assert web.metric(ACCEPTED) == 60
    assert web.stop() == 0


def workers(web: WebProcess) -> list[psutil.Process]:
    """The worker processes."""
    return psutil.Process(web.process.pid).children()


def test_prometheus_multiproc_dir_is_ignored(new_sqlite: NewDatabase, start_web: StartWeb, tmp_path: Path) -> None:
    """Whichever folder the variable names, nothing in it is read, written or deleted."""
    url = new_sqlite()
    folder = Path(url.removeprefix("sqlite:///")).parent
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("counter_1.db", "gauge_all_1.db", "other.db"):
        (damaged / name).write_bytes(b"no metrics")
    for directory in (folder, damaged, tmp_path / "missing", "/proc", "/dev/full"):
        with engine_of(url) as engine, engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM outbox")
            connection.exec_driver_sql("DELETE FROM outbox_pending")
        web = start_web(url, WEB_CONCURRENCY="2", PROMETHEUS_MULTIPROC_DIR=str(directory))
        assert web.post({"id": "i", "channel": "voice"}).status_code == 202
        assert web.metric(ACCEPTED) == 1
        for worker in workers(web):
            worker.kill()
        assert web.metric(ACCEPTED) == 1  # answered by a replacement
        assert web.stop() == 0
    assert len(stored(url)) == 1
    assert {path.name for path in damaged.iterdir()} == {"counter_1.db", "gauge_all_1.db", "other.db"}
    assert not (tmp_path / "missing").exists()


def test_the_relay_ignores_prometheus_multiproc_dir() -> None:
    """With a missing folder, prometheus-client could not create a metric."""
    code = (
        "import relay.cli.run, relay.process.supervisor; from prometheus_client import Counter; Counter('a', 'b').inc()"
    )
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": "/nowhere/at/all"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=False).returncode == 0


def run_gunicorn(settings: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the web process as the Procfile does, with settings that end it."""
    command = [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", *options]
    return subprocess.run(
        [*command, "app.factory:create_app_from_environ()"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_tls_of_the_server_is_refused_at_start(new_sqlite: NewDatabase) -> None:
    """A handshake would occupy a thread; the message says what to do."""
    settings = {"CXONE_WEBHOOK_SECRETS": f"a={SECRET}", "DATABASE_URL": new_sqlite(), "PORT": "1"}
    ended = run_gunicorn(settings, "--certfile", "a", "--keyfile", "b")
    assert ended.returncode == 1
    assert "put a proxy in front" in ended.stderr


@pytest.mark.parametrize("host", ["nosuch.invalid", "999.1.1.1", "192.0.2.1", "2001:db8::1"])
def test_an_address_of_another_machine_is_refused(host: str, new_sqlite: NewDatabase) -> None:
    """The process ends with one line that names the setting, instead of retrying."""
    settings = {"CXONE_WEBHOOK_SECRETS": f"a={SECRET}", "DATABASE_URL": new_sqlite(), "WEB_HOST": host}
    ended = run_gunicorn(settings)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"WEB_HOST={host}: expected an address of this machine")


def test_it_listens_on_ipv6(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """WEB_HOST=:: accepts IPv4 and IPv6 connections."""
    web = start_web(new_sqlite(), WEB_HOST="::")
    assert web.post({"id": "i", "channel": "voice"}).status_code == 202
    with socket.create_connection(("::1", web.port), timeout=30) as connection:
        connection.sendall(interaction_bytes(1))
        assert read_response(connection).status == 202


def test_a_killed_service_leaves_nothing_behind(new_sqlite: NewDatabase, start_web: StartWeb, tmp_path: Path) -> None:
    """After the master is killed its workers end, and no temporary file is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    web = start_web(new_sqlite(), WEB_CONCURRENCY="2", TMPDIR=str(folder))
    left = workers(web)
    web.process.kill()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive
    assert list(folder.iterdir()) == []


def test_replaced_processes_keep_their_settings(new_sqlite: NewDatabase, start_web: StartWeb, tmp_path: Path) -> None:
    """After a kill or SIGHUP, a secret's file that was removed or a disk that is missing does not end the service."""
    secrets, url = tmp_path / "secrets", new_sqlite()
    secrets.write_text(f"tests={SECRET}\n")
    folder = tmp_path / "disk"
    folder.mkdir()
    Path(url.removeprefix("sqlite:///")).rename(folder / "outbox.db")
    web = start_web(f"sqlite:///{folder}/outbox.db", CXONE_WEBHOOK_SECRETS="", CXONE_WEBHOOK_SECRETS_FILE=str(secrets))
    assert web.post({"id": 0, "channel": "voice"}).status_code == 202
    secrets.write_text("short")
    folder.rename(tmp_path / "moved")
    before = workers(web)
    before[0].kill()
    wait_until(lambda: _replaced(web, before), "the process is replaced")
    assert web.post({"id": 1, "channel": "voice"}).status_code == 503
    before = workers(web)
    secrets.unlink()
    web.signal(signal.SIGHUP)
    wait_until(lambda: _replaced(web, before), "the process is replaced at a reload")
    (tmp_path / "moved").rename(folder)
    wait_until(lambda: web.post({"id": 2, "channel": "voice"}).status_code == 202, "it stores interactions")
    assert web.stop() == 0


def _replaced(web: WebProcess, before: list[psutil.Process]) -> bool:
    assert web.process.poll() is None, web.log.read_text()
    return len(workers(web)) == len(before) and not set(workers(web)) & set(before)


@contextlib.contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    """An engine on the outbox."""
    engine = create_outbox_engine(url)
    yield engine
    engine.dispose()


@contextlib.contextmanager
def table_locked(url: str) -> Iterator[None]:
    """Block every writer."""
    if url.startswith("postgresql"):
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
            yield
        return
    with engine_of(url) as engine, engine.begin():  # BEGIN IMMEDIATE is enough
        yield


def test_probes_and_metrics_answer_while_the_database_hangs(new_database: NewDatabase, start_web: StartWeb) -> None:
    """With more requests than threads: probes take milliseconds, each request is refused within ten seconds of its
    arrival, and the service recovers without a restart.
    """
    url = new_database(1)
    web = start_web(url)
    assert web.post({"id": "before", "channel": "voice"}).status_code == 202
    wait_until(lambda: get(web, "/readyz") == 200, "it is ready")  # a request waits only one second for the first check
    answers: list[requests.Response] = []
    probes: dict[str, list[float]] = {}
    with table_locked(url):
        senders = [
            threading.Thread(target=lambda n=number: answers.append(web.post({"id": f"s-{n}", "channel": "voice"})))
            for number in range(80)
        ]
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            for path in ("/healthz", "/readyz", "/metrics"):
                probes.setdefault(path, []).append(time_request(web, path))
        assert get(web, "/readyz") == 503
        assert get(web, "/healthz") == 200
    for path, seconds in probes.items():
        assert_none_waited(seconds, path, median_below=0.1)
    assert {answer.status_code for answer in answers} == {503}
    assert min(int(answer.headers["Retry-After"]) for answer in answers) > 0
    assert max(answer.elapsed.total_seconds() for answer in answers) < 15  # a busy machine may add five to its ten
    wait_until(lambda: get(web, "/readyz") == 200, "it is ready again")
    assert web.post({"id": "after", "channel": "voice"}).status_code == 202


def get(web: WebProcess, path: str, **headers: str) -> int:
    """Status of a GET request."""
    return requests.get(f"{web.base}{path}", headers=headers, timeout=30).status_code


def time_request(web: WebProcess, path: str) -> float:
    """Seconds that a request takes."""
    return requests.get(f"{web.base}{path}", timeout=30).elapsed.total_seconds()


def test_while_a_commit_hangs_further_requests_are_refused_at_once(
    new_database: NewDatabase, start_web: StartWeb
) -> None:
    """Two threads are reserved for refusals, so later requests do not wait for a thread."""
    url = new_database(1)
    web = start_web(url, WEB_THREADS="6")
    stop = threading.Event()

    def send_until_stopped(sender: int) -> None:
        for number in count():
            if stop.is_set():
                return
            web.post({"id": f"{sender}-{number}", "channel": "voice"})

    def refused_at_once() -> bool:
        answer = web.post({"id": "late", "channel": "voice"})
        return answer.status_code == 503 and answer.elapsed.total_seconds() < 1.5

    senders = [threading.Thread(target=send_until_stopped, args=(number,)) for number in range(6)]
    with table_locked(url):
        for sender in senders:
            sender.start()
        wait_until(lambda: all(refused_at_once() for _ in range(3)), "three in a row are refused at once")
        stop.set()
        for sender in senders:
            sender.join()
    wait_until(lambda: web.post({"id": "after", "channel": "voice"}).status_code == 202, "it recovers")


def test_the_reason_of_not_ready_requires_the_token(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """Without METRICS_TOKEN /readyz shows the state, but not the reason."""
    url = new_sqlite()
    web = start_web(url, METRICS_TOKEN="m-token")
    with table_locked(url):
        wait_until(lambda: get(web, "/readyz") == 503, "it is not ready")
        without = requests.get(f"{web.base}/readyz", timeout=30).json()["detail"]
        token = {"Authorization": "Bearer m-token"}
        with_token = requests.get(f"{web.base}/readyz", headers=token, timeout=30).json()["detail"]
    assert without == "No interaction can be stored now"
    assert with_token.startswith(f"{without}: the database ")


def test_idle_connections_are_closed_after_the_keepalive(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """Until then they occupy no thread."""
    web = start_web(new_sqlite(), WEB_KEEPALIVE_SECONDS="6", WEB_THREADS="2")
    with contextlib.ExitStack() as stack:
        kept = []
        for number in range(20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=30))
            connection.sendall(interaction_bytes(number))
            assert read_response(connection).status == 202
            kept.append(connection)
        for number, connection in enumerate(kept):
            connection.sendall(interaction_bytes(100 + number))
            assert read_response(connection).status == 202
        assert [connection.recv(1) for connection in kept] == [b""] * 20


def interaction_bytes(number: int) -> bytes:
    """A complete request."""
    body = b'{"id": "i-%d", "channel": "voice"}' % number
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-CXone-Webhook-Secret: {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_no_secret_or_personal_data_is_logged_at_any_level(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """Valid, invalid and incomplete requests at LOG_LEVEL=DEBUG, and a failing database."""
    url = new_sqlite()
    web = start_web(url, LOG_LEVEL="DEBUG", METRICS_TOKEN="canary-token-0123")
    body = b'{"id": "canary-id", "channel": "canary-channel", "customer": {"email": "canary@example.com"}}'
    login = f"X-CXone-Webhook-Secret: {SECRET}\r\n".encode()
    post = f"POST {PATH} HTTP/1.1\r\nHost: canary-host\r\n".encode()
    length = b"Content-Length: %d\r\n" % len(body)
    whole = post + login + length + b"\r\n" + body
    requests_sent = [
        whole,
        whole,
        whole.replace(b"voice", b"canary"),
        post + b"X-CXone-Webhook-Secret: canary-secret-0123\r\n" + length + b"\r\n" + body,
        post + login + length + b"Idempotency-Key: canary-key\r\n\r\n" + body,
        post + login + length + b"Idempotency-Key: canary key\r\n\r\n" + body,
        post + login + b"Content-Encoding: canary\r\n" + length + b"\r\n" + body,
        post + login + b"Content-Length: 9999999\r\n\r\n" + body,
        post + login + b"Transfer-Encoding: chunked\r\n\r\n" + b"4\r\ncanary\r\n0\r\n\r\n",
        post + login + b"Transfer-Encoding: canary\r\n\r\n" + body,
        post + login + length + b"Broken canary\r\n\r\n" + body,
        post + login + b'Content-Length: 33\r\n\r\n{"id": "canary", "channel": 12345}',
        b"GET /canary-path?canary=query HTTP/1.1\r\nAuthorization: Bearer canary-token-9999\r\n" + login + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer canary-token-9999\r\n\r\n",
        b"canary / HTTP/1.1\r\n" + login + b"\r\n",
        post + login + b"X-A: " + b"canary" * 10_000,
    ]
    cut = [post + login, post + login + length + b"\r\n" + body[:20], post[:30], whole[:-1]]
    for request in requests_sent:
        with contextlib.suppress(OSError, AssertionError):
            answer = web.raw(request)
            assert b"canary" not in answer.body.replace(b"canary-id", b"") or answer.status == 202
    for request in cut:
        with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
            connection.sendall(request)
    with engine_of(url) as engine, engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE outbox_identity RENAME TO renamed")
    web.raw(whole.replace(b"canary-id", b"canary-2d"))
    assert web.stop() == 0
    written = web.log.read_text()
    assert [word for word in ("canary", SECRET) if word in written] == []


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"CXONE_WEBHOOK_SECRETS": ""}, "CXONE_WEBHOOK_SECRETS or CXONE_WEBHOOK_SECRET: neither is set"),
        ({"CXONE_WEBHOOK_SECRETS": "a=canary"}, "CXONE_WEBHOOK_SECRETS=***: part 1 has 6 bytes"),
        ({"DATABASE_URL": "mysql://u:canary@h/d"}, "DATABASE_URL=***: expected sqlite:///file or postgresql://"),
        ({"DATABASE_URL": "sqlite:////nowhere/at/all.db"}, "folder /nowhere/at does not exist"),
        ({"DATABASE_URL": "postgresql://u:canary@127.0.0.1/d?sslmod=canary"}, 'connection option "sslmod"'),
        ({"PORT": "http"}, "PORT='http': "),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(environ: dict[str, str], message: str) -> None:
    """Exit code 1 and one line that names the setting, without traceback and secret."""
    good = {"CXONE_WEBHOOK_SECRETS": f"a={SECRET}", "DATABASE_URL": "sqlite:///outbox.db"}
    ended = run_gunicorn({**good, **environ})
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert message in line
    assert "canary" not in line


def test_the_web_process_does_not_import_the_kafka_client() -> None:
    """Neither directly nor through another module."""
    code = "import sys, app.factory, app.gunicorn_worker; sys.exit('confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
