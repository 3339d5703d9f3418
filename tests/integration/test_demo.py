"""``relay demo``: what a newcomer sees of it, on the mock cluster and on a real broker."""

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

from config.settings import KNOWN_NAMES
from relay.demo.stubs import Stubs
from testkit import ROOT
from testkit.services import ExternalService, Kafka
from testkit.services.process import free_port
from testkit.waiting import wait_until

ALARMING = re.compile(r"traceback|warning|error|exception|fail|refused|reset by|%\d\|", re.IGNORECASE)
DEMO = [sys.executable, "-m", "relay", "demo"]


def environ(**given: str) -> dict[str, str]:
    """The environment of somebody who has set nothing but this."""
    return {**{name: value for name, value in os.environ.items() if name not in KNOWN_NAMES}, **given}


@pytest.fixture(params=["mock", "real"])
def cluster(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings that choose the mock cluster, which are none, or a real broker."""
    if request.param == "mock":
        return {}
    kafka: Kafka | ExternalService = request.getfixturevalue("kafka")
    return {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}


@pytest.mark.parametrize("columns", ["80", "40"])
def test_nothing_of_its_output_looks_like_a_failure(cluster: dict[str, str], columns: str) -> None:
    """The relay is killed while it calls; all that is printed says that it went well, and fits the terminal."""
    settings = {**cluster, "COLUMNS": columns, "WEBHOOK_RATE_LIMIT": "1", "RELAY_SHARDS": "7"}  # not for the demo
    done = subprocess.run(
        [*DEMO, "--count", "600"], cwd=ROOT, env=environ(**settings), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert not ALARMING.search(done.stdout), done.stdout
    assert "…" not in done.stdout
    words = " ".join(done.stdout.split())
    assert "Each accepted interaction is in the topic exactly once." in words
    assert "records in the topic 600 duplicates 0 lost 0" in words
    assert re.search(r"kills of the relay [123] ", words), words


def test_it_works_without_a_checkout(wheel_environment: Path, tmp_path: Path) -> None:
    """Installed from the wheel, in a folder that holds nothing of the product."""
    done = subprocess.run(
        [wheel_environment / "relay", "demo", "--count", "50"],
        cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "Each accepted interaction is in the topic exactly once." in done.stdout


def test_a_caller_that_is_killed_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    """A connection that is reset in the middle of a request, or before its answer, prints nothing."""
    stand_ins = Stubs()
    try:
        for request in (b"POST /score HTTP/1.1\r\nContent-Le", b"POST /score HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"):
            caller = socket.create_connection(("127.0.0.1", int(stand_ins.base.rpartition(":")[2])))
            caller.sendall(request)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
            caller.close()
        port = stand_ins.base.rpartition(":")[2]
        with socket.create_connection(("127.0.0.1", int(port))) as caller:  # those before it are served first
            caller.sendall(b"POST /score HTTP/1.1\r\nIdempotency-Key: 7\r\nContent-Length: 2\r\n\r\n{}")
            assert caller.recv(12) == b"HTTP/1.1 200"
        assert stand_ins.scored == {"7"}
    finally:
        stand_ins.close()
    assert capfd.readouterr() == ("", "")


def test_a_broker_that_does_not_answer_is_named() -> None:
    """One line, before anything is posted; and no process is left."""
    nowhere = f"127.0.0.1:{free_port()}"
    refused = subprocess.run(
        DEMO, cwd=ROOT, env=environ(KAFKA_BOOTSTRAP_SERVERS=nowhere), capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"Kafka failed to answer at {nowhere}" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that stays up; its output goes to a file."""
    with (tmp_path / "demo.out").open("w") as out:
        demo = subprocess.Popen([*DEMO, "--stay"], cwd=ROOT, env=environ(), stdout=out, stderr=out, text=True)
    yield demo
    demo.terminate()
    demo.wait(60)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_what_it_prints_can_be_pasted(staying: subprocess.Popen[str], tmp_path: Path, end: signal.Signals) -> None:
    """The lines to try work in another shell, and Ctrl-C ends every process of the demo."""
    out = tmp_path / "demo.out"
    wait_until(lambda: "Ctrl-C here stops everything." in out.read_text(), "it is up")
    pasted = "\n".join(line for line in out.read_text().splitlines() if line.startswith("  "))
    children = psutil.Process(staying.pid).children(recursive=True)
    assert len(children) >= 3  # cluster, web, relay
    done = subprocess.run(
        ["bash", "-ec", pasted], cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"202", "row 1:"} <= {word for word in ("202", "row 1:") if word in done.stdout}, done.stdout
    staying.send_signal(end)
    assert staying.wait(60) == 0
    assert not [child for child in children if child.is_running()]
    assert not ALARMING.search(out.read_text()), out.read_text()
