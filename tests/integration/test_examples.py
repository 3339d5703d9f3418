"""The examples, on a real broker and registry, with a relay that sends."""

import ast
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from confluent_kafka import Producer

from testkit import ROOT
from testkit.command_line import command, expect
from testkit.deployment import Deploy, Deployment
from testkit.ports import free_port
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Postgres, ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.services.java import compiler, java
from testkit.services.kafka import jars
from testkit.services.registry import libraries
from testkit.waiting import wait_until

EXAMPLES = ROOT / "examples"
PRODUCT = {"app", "config", "console", "migrations", "outbox", "relay", "testkit", "tests", "bench"}
QUERY = "SELECT outbox_id, replay_of, interaction_id, channel, customer_email, agent_id FROM interactions ORDER BY 1"
Start = Callable[..., Path]
"""Starts a process with a command and settings, and returns the file of its output."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start processes, which are killed after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(arguments: Sequence[str], **environ: str) -> Path:
        output = tmp_path / f"example-{len(started)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                arguments, cwd=tmp_path, env={**os.environ, **environ}, stdout=file, stderr=file
            )  # fmt: skip
        started.append(process)
        return output

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def deployment(new_sqlite: Callable[..., str], kafka: Kafka | ExternalService, deploy: Deploy) -> Deployment:
    """An outbox on SQLite, its topic, and a running relay."""
    deployment = deploy(new_sqlite(), kafka)
    deployment.relay()
    return deployment


@pytest.fixture
def sent(deployment: Deployment) -> list[tuple[Any, ...]]:
    """What a consumer has to store: three sent rows, and the replay of one. The topic also has an aborted record."""
    ids = deployment.record(new_rows(3))
    deployment.wait_drained()
    _abort_a_record(deployment)
    replay = command(deployment.environ, "replay", "--id", str(ids[1]), "--reason", "lost", "--yes")
    expect(replay, 0)
    deployment.wait_drained()
    rows = [(number, None, f"i-{place}") for place, number in enumerate(ids)] + [(ids[2] + 1, ids[1], "i-1")]
    return [(*row, "voice", "someone@example.com", "agent-7") for row in rows]


def _abort_a_record(deployment: Deployment) -> None:
    """Leave a record in the topic that was never committed, and that no consumer could decode."""
    producer = Producer({**deployment.client_config, "transactional.id": f"{deployment.topic}-stranger"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(deployment.topic, b"not Avro", b"i-1")
    producer.flush(30)
    producer.abort_transaction(30)


def consume_twice(start: Start, arguments: Sequence[str], environ: Mapping[str, str], count: int) -> None:
    """Run a consumer until it has stored some records, then another one that reads them all again."""
    for group, outcome in (("first", "stored"), ("second", "known")):
        output = start(arguments, **environ, KAFKA_GROUP_ID=f"{environ['KAFKA_TOPIC']}-{group}")
        lines = wait_until(partial(_outcomes, output, count), f"{count} records are read ({output})")
        assert lines == [outcome] * count


def _outcomes(output: Path, count: int) -> list[str]:
    """What became of each record, once a consumer has read them all."""
    lines = [line.split()[-1] for line in output.read_text().splitlines() if line.startswith("row ")]
    return lines if len(lines) == count else []


def test_the_consumer_in_python(
    deployment: Deployment, sent: list[tuple[Any, ...]], start: Start, tmp_path: Path
) -> None:
    """It stores each committed record once, although it reads them twice, and a replay with the id that it repeats."""
    path = tmp_path / "interactions.db"
    consume_twice(start, [sys.executable, str(EXAMPLES / "consumer.py"), str(path)], deployment.environ, len(sent))
    with sqlite3.connect(path) as database:
        assert database.execute(QUERY).fetchall() == sent


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The class path of the example in Java, compiled without a warning."""
    classes = tmp_path_factory.mktemp("classes")
    try:
        libraries_found = [*libraries("org.apache.avro.avro-", "org.postgresql.postgresql-"), jars() / "*"]
        javac = compiler(17)
    except ServiceError as error:
        skip_or_fail(error)
    path = ":".join(map(str, libraries_found))
    options = ["--release", "17", "-Xlint:all,-classfile,-processing,-path,-options", "-Werror", "-d", str(classes)]
    source = str(EXAMPLES / "java" / "InteractionConsumer.java")
    done = subprocess.run([javac, *options, "-cp", path, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{classes}:{path}"


def test_the_consumer_in_java(
    deployment: Deployment,
    sent: list[tuple[Any, ...]],
    start: Start,
    compiled: str,
    postgres: Postgres | ExternalService,
) -> None:
    """It stores each committed record once, although it reads them twice, and a replay with the id that it repeats."""
    url = postgres.create_database(deployment.topic.replace("-", "_"))
    environ = {**deployment.environ, "JDBC_URL": jdbc_url(url)}
    consume_twice(start, [java(17), "-cp", compiled, "InteractionConsumer"], environ, len(sent))
    with psycopg.connect(url) as database:
        assert database.execute(QUERY).fetchall() == sent


def jdbc_url(url: str) -> str:
    """The address of a PostgreSQL database as Java's driver takes it."""
    info = psycopg.conninfo.conninfo_to_dict(url)
    login = "&".join(f"{name}={info[name]}" for name in ("user", "password") if info.get(name))
    return f"jdbc:postgresql://{info['host']}:{info['port']}/{info['dbname']}?{login}"


@pytest.fixture
def endpoint(start: Start, tmp_path: Path) -> Callable[[], tuple[str, Path]]:
    """Starts the example endpoint, each time on the same file; returns its URL and the file of its output."""

    def serve() -> tuple[str, Path]:
        port = free_port()
        arguments = [sys.executable, str(EXAMPLES / "inference_endpoint.py"), str(tmp_path / "scores.db")]
        output = start(arguments, PORT=str(port))
        url = f"http://127.0.0.1:{port}/score"
        wait_until(lambda: _status(url, b"") == 400, f"the endpoint answers ({output})")
        return url, output

    return serve


def _status(url: str, body: bytes, **headers: str) -> int:
    try:
        return requests.post(url, data=body, headers=headers, timeout=5).status_code
    except requests.ConnectionError:
        return 0


def test_the_inference_endpoint_scores_once(
    endpoint: Callable[[], tuple[str, Path]],
    new_sqlite: Callable[..., str],
    kafka: Kafka | ExternalService,
    deploy: Deploy,
) -> None:
    """The relay's calls are done. Made once more, they are answered without being scored again."""
    url, output = endpoint()
    deployment = deploy(new_sqlite(), kafka, INFERENCE_URL=url)
    deployment.record(new_rows(3))
    relay = deployment.relay()
    done = 'outbox_inference_calls_total{outcome="done"} '
    wait_until(lambda: f"{done}3.0" in relay.get("/metrics"), "three calls are done")
    again = command(deployment.environ, "replay", "--all", "--inference-only", "--reason", "a test", "--yes")
    expect(again, 0)
    wait_until(lambda: f"{done}6.0" in relay.get("/metrics"), "three more calls are done")
    assert sorted(output.read_text().splitlines()) == ["scored i-0", "scored i-1", "scored i-2"]


def test_the_inference_endpoint_remembers_after_a_restart(endpoint: Callable[[], tuple[str, Path]]) -> None:
    """The same key and body get the same answer; another body under the same key is another call."""
    body, other = b'{"interactionId": "i-1", "timestamp": 1}', b'{"interactionId": "i-2", "timestamp": 1}'
    key = {"Idempotency-Key": "7"}
    first = requests.post(endpoint()[0], data=body, headers=key, timeout=5)
    url, output = endpoint()
    assert requests.post(url, data=body, headers=key, timeout=5).json() == first.json()
    assert output.read_text() == ""
    assert requests.post(url, data=other, headers=key, timeout=5).json() != first.json()
    assert output.read_text() == "scored i-2\n"
    assert _status(url, b"[]", **key) == 422


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_import_nothing_of_the_product(path: Path) -> None:
    """So that they can be copied."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported & PRODUCT == set()
