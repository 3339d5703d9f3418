"""``relay demo`` on the mock cluster and on a real broker, as a newcomer sees it."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from config.setting_names import KNOWN_NAMES
from relay.demo.stubs import Stubs
from testkit import ROOT
from testkit.command_line import expect
from testkit.ports import free_port
from testkit.services import ExternalService, Kafka
from testkit.waiting import wait_until

ALARMING = re.compile(r"traceback|warning|error|exception|fail|refused|reset by|%\d\|", re.IGNORECASE)
DEMO = [sys.executable, "-m", "relay", "demo"]


def environ(**given: str) -> dict[str, str]:
    """Return the environment without the product's settings, except these."""
    return {**{name: value for name, value in os.environ.items() if name not in KNOWN_NAMES}, **given}


@pytest.fixture(params=["mock", "real"])
def cluster(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return settings for the mock cluster (none) or for a real broker."""
    if request.param == "mock":
        return {}
    kafka: Kafka | ExternalService = request.getfixturevalue("kafka")
    return {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}


@pytest.mark.parametrize("columns", ["80", "40"])
def test_its_output_shows_success_and_no_alarm(cluster: dict[str, str], columns: str, tmp_path: Path) -> None:
    """Although the relay is killed, nothing printed looks like a failure, and no file is left."""
    unused = {"WEBHOOK_RATE_LIMIT": "1", "RELAY_SHARDS": "7"}  # the demo ignores them
    settings = {**cluster, **unused, "COLUMNS": columns, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*DEMO, "--count", "600"], cwd=ROOT, env=environ(**settings), capture_output=True, text=True, check=False
    )
    expect(done, 0)
    assert done.stderr == ""
    assert not ALARMING.search(done.stdout), done.stdout
    assert "…" not in done.stdout
    words = " ".join(done.stdout.split())
    assert "Each accepted interaction is in the topic exactly once." in words
    assert "records in the topic 600 duplicates 0 lost 0" in words
    assert re.search(r"kills of the relay [123] ", words), words
    assert list(tmp_path.glob("outbox-demo-*")) == []


def test_it_works_without_a_checkout(wheel_environment: Path, tmp_path: Path) -> None:
    """It runs from the installed wheel, in an empty directory."""
    done = subprocess.run(
        [wheel_environment / "relay", "demo", "--count", "50"],
        cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    expect(done, 0, stdout="Each accepted interaction is in the topic exactly once.")
    assert done.stderr == ""


def test_a_reset_connection_is_not_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """The stubs print nothing if a client disconnects during its request or before the response."""
    stubs = Stubs()
    try:
        for request in (b"POST /score HTTP/1.1\r\nContent-Le", b"POST /score HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"):
            caller = socket.create_connection(("127.0.0.1", int(stubs.base.rpartition(":")[2])))
            caller.sendall(request)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset on close
            caller.close()
        port = stubs.base.rpartition(":")[2]
        with socket.create_connection(("127.0.0.1", int(port))) as caller:  # earlier ones are served first
            caller.sendall(b"POST /score HTTP/1.1\r\nIdempotency-Key: 7\r\nContent-Length: 2\r\n\r\n{}")
            assert caller.recv(12) == b"HTTP/1.1 200"
        assert stubs.scored == {"7"}
    finally:
        stubs.close()
    assert capfd.readouterr() == ("", "")


def test_an_unreachable_broker_is_named(tmp_path: Path) -> None:
    """One line names it before anything is posted; no file is left."""
    nowhere = f"127.0.0.1:{free_port()}"
    settings = environ(KAFKA_BOOTSTRAP_SERVERS=nowhere, TMPDIR=str(tmp_path))
    refused = subprocess.run(DEMO, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    expect(refused, 1, stderr=f"Kafka failed to answer at {nowhere}")
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert list(tmp_path.glob("outbox-demo-*")) == []


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a demo that stays up; its output goes to demo.out."""
    settings = environ(TMPDIR=str(tmp_path))
    with (tmp_path / "demo.out").open("w") as out:
        demo = subprocess.Popen([*DEMO, "--stay"], cwd=ROOT, env=settings, stdout=out, stderr=out, text=True)
    yield demo
    demo.terminate()
    demo.wait(60)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_commands_can_be_pasted(
    staying: subprocess.Popen[str], tmp_path: Path, end: signal.Signals
) -> None:
    """They work in another shell. Ctrl-C or SIGTERM stops every process of the demo and removes its files."""
    out = tmp_path / "demo.out"
    wait_until(lambda: "Ctrl-C stops everything" in out.read_text(), "it is up")
    pasted = "\n".join(line for line in out.read_text().splitlines() if line.startswith("  "))
    children = psutil.Process(staying.pid).children(recursive=True)
    assert len(children) >= 4  # cluster, web, console, relay
    done = subprocess.run(
        ["bash", "-ec", pasted], cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False
    )
    expect(done, 0, stdout="202")
    expect(done, 0, stdout="row 1:")
    assert "interaction-1" in _rows_in_the_console(out.read_text())
    staying.send_signal(end)
    assert staying.wait(60) == 0
    assert not [child for child in children if child.is_running()]
    assert list(tmp_path.glob("outbox-demo-*")) == []
    assert not ALARMING.search(out.read_text()), out.read_text()


def _rows_in_the_console(printed: str) -> str:
    """Sign in to the console with the login that was printed, and return its list of rows."""
    found = re.search(r"Console +(http://127\.0\.0\.1:[0-9]+) \(sign in as (\w+), password ([\w-]+)\)", printed)
    assert found is not None, printed
    base, name, password = found.groups()
    with requests.Session() as session:
        session.trust_env = False
        token = re.search(r'name="csrf_token" value="([^"]+)"', session.get(f"{base}/login", timeout=10).text)
        assert token is not None
        form = {"csrf_token": token[1], "username": name, "password": password}
        assert session.post(f"{base}/login", data=form, timeout=10).status_code == 200
        return session.get(f"{base}/rows", timeout=10).text
