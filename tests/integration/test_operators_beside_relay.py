"""Commands that change many rows beside a running relay: replays, inference calls, erasures, pruning, interrupts."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic
from fastavro import parse_schema, schemaless_reader

from outbox.operators.format import plural
from relay.kafka.avro import SCHEMA_TEXT
from testkit import ROOT
from testkit.command_line import command, expect
from testkit.deployment import Deployment, NewDeployment
from testkit.rows import incompressible, new_row, new_rows
from testkit.topic import ConsumedRecord, alter_topic, create_topics, read_topic
from testkit.waiting import wait_until

REASON = ("--reason", "as agreed", "--yes")


def value(record: ConsumedRecord) -> dict[str, Any]:
    """Decode a record."""
    read = schemaless_reader(BytesIO(record.value[5:]), parse_schema(json.loads(SCHEMA_TEXT)), None)
    assert isinstance(read, dict)
    return read


class Endpoint:
    """An inference endpoint that responds with one status, which a test can change."""

    def __init__(self) -> None:
        endpoint = self
        self.status = 422
        self.keys: list[int] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.keys.append(int(self.headers["Idempotency-Key"]))
                self.send_response(endpoint.status)
                self.send_header("Content-Length", "0")
                if endpoint.status == 503:
                    self.send_header("Retry-After", "1")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/score"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Serve an endpoint during one test."""
    served = Endpoint()
    yield served
    served.close()


def test_a_replay_goes_only_to_an_allowed_topic(deployment: Deployment) -> None:
    """KAFKA_REPLAY_TOPICS limits both the command and the relay, which parks a row for any other topic."""
    allowed, other = f"{deployment.topic}-replay", f"{deployment.topic}-other"
    ids = deployment.record(new_rows(6, interactions=2))
    deployment.relay(KAFKA_REPLAY_TOPICS=allowed)
    deployment.wait_drained()
    environ = {**deployment.environ, "KAFKA_REPLAY_TOPICS": allowed}
    refused = command(environ, "replay", "--all", "--topic", other, *REASON)
    expect(refused, 2, stderr="is not in KAFKA_REPLAY_TOPICS")
    expect(command(environ, "replay", "--interaction", "i-1", "--topic", allowed, *REASON), 0)
    deployment.wait_drained()
    replayed = read_topic(deployment.client_config, allowed)
    assert [int(record.headers["replay-of"]) for record in replayed] == ids[1::2]
    assert sorted(record.outbox_id for record in deployment.seen()) == ids
    lenient = command(
        deployment.environ, "replay", "--id", str(ids[0]), "--topic", other, *REASON, KAFKA_REPLAY_TOPICS=other
    )
    expect(lenient, 0)
    wait_until(lambda: deployment.query("SELECT 1 FROM outbox_rows WHERE state = 'parked'"), "it is parked")
    ((error,),) = deployment.query("SELECT error FROM outbox_rows WHERE state = 'parked'")
    assert f"topic {other} is not in KAFKA_REPLAY_TOPICS" in error


def test_inference_calls_can_be_retried_and_replayed(deployment: Deployment, endpoint: Endpoint) -> None:
    """A refused call is parked, found by its error and retried; replay --inference-only calls again, sending nothing.

    The status shows that the endpoint fails, and how many calls are parked.
    """
    ids = deployment.record(new_rows(4, interactions=4))
    deployment.relay(INFERENCE_URL=endpoint.url, RELAY_LEASE_SECONDS="3")
    count = "SELECT count(*) FROM outbox_inference_call WHERE state = '{}'"
    wait_until(lambda: deployment.query(count.format("parked")) == [(4,)], "every call is parked")
    listed = command(deployment.environ, "inference", "list", "--error", "HTTP 422", "--json")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == ids
    endpoint.status = 200
    endpoint.keys.clear()
    expect(command(deployment.environ, "inference", "retry", "--id", str(ids[0]), "--id", str(ids[1]), *REASON), 0)
    wait_until(lambda: deployment.query(count.format("done")) == [(2,)], "the two are done")
    assert sorted(endpoint.keys) == ids[:2]
    arguments = ("replay", "--id", str(ids[0]), "--inference-only", *REASON)
    expect(command(deployment.environ, *arguments), 0)
    wait_until(lambda: len(endpoint.keys) == 3, "the first is called again")
    assert endpoint.keys[2] == ids[0]
    expect(command(deployment.environ, *arguments), 3, stderr="already replayed the 1 matching row")
    endpoint.status = 503
    expect(command(deployment.environ, "replay", "--id", str(ids[1]), "--inference-only", *REASON), 0)
    wait_until(
        lambda: "inference: the endpoint is failing (HTTP 503)" in command(deployment.environ, "status").stdout,
        "the status shows it",
    )
    endpoint.status = 200
    wait_until(
        lambda: "endpoint is failing" not in command(deployment.environ, "status").stdout, "the status is clean again"
    )
    assert "inference: 0 calls due, 2 parked" in command(deployment.environ, "status").stdout
    assert len(deployment.seen()) == 4


def test_an_erased_row_is_sent_without_the_address(deployment: Deployment) -> None:
    """A parked row and the one behind it are erased; after a retry both arrive in order, without an address."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    person = incompressible()
    email = person["customer_email"]
    ids = deployment.record([new_row("i-1", **person), new_row("i-1", customer_email=email), new_row("i-2")])
    deployment.relay()
    wait_until(
        lambda: deployment.query("SELECT id FROM outbox_rows WHERE state = 'parked'") == [(ids[0],)], "it is parked"
    )
    planned = command(deployment.environ, "erase", "--email", email, "--dry-run", "--reason", "looking")
    expect(planned, 0, stderr="1 of them are pending")
    done = command(deployment.environ, "erase", "--email", email, *REASON)
    expect(done, 0, stdout="erase: 2 rows done\n")
    alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", "1048576")
    expect(command(deployment.environ, "retry", "--interaction", "i-1", *REASON), 0)
    deployment.wait_drained()
    seen = [record for record in deployment.seen() if record.key == "i-1"]
    assert [(record.outbox_id, value(record)["customerEmail"]) for record in seen] == [(ids[0], None), (ids[1], None)]
    assert email not in command(deployment.environ, "audit").stdout
    sent = command(deployment.environ, "erase", "--interaction", "i-2", *REASON)
    expect(sent, 0, stderr="1 of them were sent with the address: the records stay in Kafka")
    assert deployment.query("SELECT count(*) FROM outbox WHERE length(payload) > 0") == [(0,)]


def test_the_relay_prunes_while_it_sends(deployment: Deployment) -> None:
    """Rows older than the retention are removed while new ones are sent; an operator can prune more."""
    old = deployment.record(new_rows(1200))
    first = deployment.relay()
    deployment.wait_drained()
    first.stop()
    deployment.execute("UPDATE outbox SET received_at = received_at - 3600000")
    deployment.execute("UPDATE outbox_sent SET sent_at = sent_at - 3600000")
    new = deployment.record(new_rows(50))
    second = deployment.relay(OUTBOX_RETENTION="30m")
    deployment.wait_drained()
    wait_until(lambda: deployment.query("SELECT count(*) FROM outbox") == [(50,)], "the old rows are pruned")
    wait_until(lambda: "outbox_pruned_rows_total 1200.0" in second.get("/metrics"), "they are counted")
    assert deployment.query("SELECT min(id) FROM outbox") == [(new[0],)]
    assert sorted(record.outbox_id for record in deployment.seen()) == [*old, *new]
    assert command(deployment.environ, "prune", "--all", *REASON).stdout == "prune: 50 rows done\n"
    assert deployment.query("SELECT count(*) FROM outbox") == [(0,)]


def test_an_interrupted_replay_prints_how_to_continue(new_deployment: NewDeployment) -> None:
    """Ctrl-C ends it after the current chunk with exit code 5. The printed command replays each remaining row once.

    It keeps the actor and the rate.
    """
    deployment = new_deployment()
    ids = deployment.record(new_rows(60, interactions=6))
    deployment.relay()
    deployment.wait_drained()
    process = [sys.executable, "-m", "relay", "replay", "--channel", "voice", "--rate", "10", "--as", "bob", *REASON]
    environ = {**os.environ, **deployment.environ, "RELAY_ACTOR": "ann"}
    working = subprocess.Popen(
        process, cwd=ROOT, env=environ, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    replayed = "SELECT count(*) FROM outbox WHERE replay_of IS NOT NULL"
    wait_until(lambda: deployment.query(replayed) >= [(10,)], "the first rows are replayed")
    working.send_signal(signal.SIGINT)
    stdout, stderr = working.communicate(timeout=60)
    assert working.returncode == 5, stderr
    done = int(stdout.split()[1])
    assert deployment.query(replayed) == [(done,)]
    assert 0 < done < 60
    assert f"interrupted: {plural(60 - done, 'row')} not processed. To continue: relay replay " in stderr
    assert "--rate 10" in stderr
    later = deployment.record(new_rows(5))
    deployment.wait_drained()
    again = shlex.split(stderr.split("To continue: relay ")[1].strip())
    finished = command(deployment.environ, *again, "--yes")
    expect(finished, 0, stdout=f"replay: {plural(60 - done, 'row')} done\n")
    made = deployment.query("SELECT replay_of FROM outbox WHERE replay_of IS NOT NULL ORDER BY replay_of")
    assert [row_id for (row_id,) in made] == ids
    assert later[0] > ids[-1]
    assert deployment.query("SELECT DISTINCT actor FROM outbox_audit") == [("bob",)]
