"""Traces from the webhook to the inference endpoint and a consumer, received by a collector."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit import ROOT
from testkit.collector import Collector, ReceivedSpan
from testkit.command_line import command, expect
from testkit.deployment import Deploy, Deployment
from testkit.rows import new_row
from testkit.services import ExternalService, Kafka
from testkit.simulator import Simulator
from testkit.waiting import wait_until
from testkit.web_process import APPLICATION, PATH, SECRET

WEBHOOK, TRANSACTION, CALL, STORE = f"POST {PATH}", "kafka transaction", "POST inference", "store interaction"
SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = {
    "id": "interaction-canary",
    "channel": "channel-canary",
    "customer": {"email": "canary@example.com"},
    "agent": {"id": "agent-canary"},
}
SERVICES = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:1"}
SETTINGS = {"CXONE_WEBHOOK_SECRETS": f"label-canary={SECRET}", "INFERENCE_TOKEN": "token-canary"}


@pytest.fixture
def deployment(
    new_sqlite: Callable[..., str], kafka: Kafka | ExternalService, deploy: Deploy, simulator: Simulator
) -> Deployment:
    """An outbox on SQLite, whose relay calls the simulated endpoint."""
    return deploy(new_sqlite(), kafka, **simulator.inference, **SETTINGS)


@pytest.fixture
def consume(deployment: Deployment, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts the example consumer with further settings; it is ended after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**environ: str) -> None:
        with (tmp_path / "consumer.log").open("wb") as output:
            arguments = [sys.executable, str(ROOT / "examples" / "consumer.py"), str(tmp_path / "interactions.db")]
            environ = {**deployment.environ, "KAFKA_GROUP_ID": deployment.topic, **environ}
            process = subprocess.Popen(arguments, env={**os.environ, **environ}, stdout=output, stderr=output)
        started.append(process)

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def one(collector: Collector, name: str) -> ReceivedSpan:
    """The only span with a name."""
    (span,) = collector.wait_for(name)
    return span


def test_one_trace_from_the_sender_to_inference(
    deployment: Deployment, collector: Collector, simulator: Simulator, consume: Callable[..., None]
) -> None:
    """The webhook continues the sender's trace; transaction, call and consumer continue the webhook's span.

    A replay continues it, too. What the spans say contains nothing of the interaction, and no secret.
    """
    deployment.environ |= collector.environ
    web, relay = deployment.web(**collector.environ, **SETTINGS), deployment.relay()
    accepted = web.post(BODY, traceparent=f"00-{SENDER[0]}-{SENDER[1]}-01")
    deployment.wait_drained()
    consume(OTEL_SERVICE_NAME="the-consumer")
    request, transaction, call, stored = (one(collector, name) for name in (WEBHOOK, TRANSACTION, CALL, STORE))
    assert {span.trace_id for span in collector.spans} == {SENDER[0]}
    assert request.parent_id == SENDER[1]
    assert {transaction.parent_id, call.parent_id, stored.parent_id} == {request.span_id}
    assert (request.links, transaction.links) == ([], [request.span_id])
    kinds = [span.kind for span in (request, transaction, call, stored)]
    assert kinds == ["SERVER", "PRODUCER", "CLIENT", "CONSUMER"]
    services = [span.service for span in (request, transaction, call, stored)]
    assert services == ["cxone-outbox-web", "cxone-outbox-relay", "cxone-outbox-relay", "the-consumer"]
    expect(command(deployment.environ, "replay", "--id", str(accepted.json()["outboxId"]), "--reason", "x", "--yes"), 0)
    again = collector.wait_for(CALL, 2)[1]
    assert (again.trace_id, again.parent_id) == (SENDER[0], request.span_id)
    record, replayed = deployment.seen()
    assert replayed.headers["traceparent"] == record.headers["traceparent"] == f"00-{SENDER[0]}-{request.span_id}-01"
    sent = simulator.requests["score"][0]
    assert sent.headers["traceparent"] == f"00-{SENDER[0]}-{call.span_id}-01"
    outbox_id = accepted.json()["outboxId"]
    assert request.attributes == {
        "http.request.method": "POST", "http.route": PATH, "http.response.status_code": 202, "outbox.id": outbox_id,
    }  # fmt: skip
    assert transaction.attributes == {
        "messaging.system": "kafka", "messaging.batch.message_count": 1, "outbox.shard": 0,
    }  # fmt: skip
    assert call.attributes == {
        "http.request.method": "POST", "http.request.resend_count": 0, "http.response.status_code": 200,
        "outbox.id": outbox_id,
    }  # fmt: skip
    for span in collector.spans:
        assert not [word for word in (b"canary", b"example.com", b"127.0.0.1", SECRET.encode()) if word in span.raw]
    assert (web.stop(), relay.stop()) == (0, 0)


def test_failures_are_in_the_trace_and_strangers_are_not(
    deployment: Deployment, collector: Collector, simulator: Simulator
) -> None:
    """Each attempt at a call has a span, the refused ones failed. Log lines name the span. The last spans are sent at
    the end of a process.
    """
    simulator.behave("score", "503:0", "422")
    environ = {**collector.environ, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    deployment.environ |= environ
    web, relay = deployment.web(**environ, **SETTINGS), deployment.relay()
    statuses = [
        web.post(BODY, secret="not-the-secret").status_code,
        web.post({}).status_code,
        web.post(BODY).status_code,
    ]
    assert statuses == [401, 422, 202]
    parked = wait_until(lambda: [line for line in relay.lines() if line.get("action") == "call_parked"], "it is parked")
    assert (web.stop(), relay.stop()) == (0, 0)
    refused, accepted = collector.named(WEBHOOK)
    assert [refused.attributes["http.response.status_code"], refused.failed, refused.parent_id] == [422, False, ""]
    first, second = collector.named(CALL)
    assert {first.parent_id, second.parent_id} == {accepted.span_id}
    assert [(call.failed, call.attributes["error.type"]) for call in (first, second)] == [
        (True, "HTTP 503"),
        (True, "HTTP 422"),
    ]
    assert [(line["trace_id"], line["span_id"]) for line in parked] == [(second.trace_id, second.span_id)]
    lines = [json.loads(line) for line in web.log.read_text().splitlines()]
    ids = {line["outcome"]: line.get("span_id") for line in lines if line.get("action") == "refused"}
    assert ids == {"unauthorized": None, "invalid": refused.span_id}


def test_a_transaction_links_to_sampled_rows(deployment: Deployment, collector: Collector) -> None:
    """To at most 128 of them, not to others, and it continues the first. Without any, it begins a trace."""
    sampled = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 201)]
    others = [new_row(f"i-{number}") for number in range(100)]
    unsampled = [new_row(traceparent=f"00-{number:032x}-{number:016x}-00") for number in range(301, 401)]
    rows = [*others, *unsampled, *(new_row(traceparent=each) for each in sampled)]
    deployment.record(rows)
    deployment.environ |= collector.environ
    deployment.relay(OTEL_TRACES_SAMPLER="parentbased_always_off", INFERENCE_URL="")
    span = one(collector, TRANSACTION)
    assert span.attributes["messaging.batch.message_count"] == len(rows)
    assert span.links == [f"{number:016x}" for number in range(1, 129)]
    assert (span.trace_id, span.parent_id) == (f"{1:032x}", f"{1:016x}")
    assert [record.headers.get("traceparent") for record in deployment.seen() if record.key == "i-1"] == [
        None, *(row.traceparent for row in rows if row.traceparent),
    ]  # fmt: skip


def test_a_collector_that_does_not_answer_changes_nothing(
    deployment: Deployment, collector: Collector, simulator: Simulator
) -> None:
    """Interactions are accepted, sent and scored while it hangs, and more spans than the queue holds are counted as
    lost. Both processes end in time.
    """
    collector.is_open.clear()
    environ = {**collector.environ, "OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
    deployment.environ |= {**environ, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    web, relay = deployment.web(**environ, **SETTINGS), deployment.relay()
    accepted = [web.post({**BODY, "id": number}).json()["outboxId"] for number in range(20)]
    wait_until(lambda: len(simulator.scored_keys()) == len(accepted), "all calls are made")
    deployment.check_exactly_once(accepted)
    lost = wait_until(lambda: [line for line in relay.lines() if line.get("action") == "spans_lost"], "it is logged")
    assert [line["spans"] for line in lost] > [0]
    assert (web.stop(), relay.stop()) == (0, 0)


@pytest.fixture
def without_opentelemetry(tmp_path: Path) -> dict[str, str]:
    """Settings of a process in whose environment OpenTelemetry cannot be imported."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not here')")
    return {"PYTHONPATH": str(tmp_path)}


def test_without_a_collector_nothing_is_traced(
    deployment: Deployment, simulator: Simulator, without_opentelemetry: dict[str, str]
) -> None:
    """OpenTelemetry is not imported; a context that the sender gave is passed on, and no other."""
    deployment.environ |= without_opentelemetry
    web, relay = deployment.web(**without_opentelemetry, **SETTINGS), deployment.relay()
    given = f"00-{SENDER[0]}-{SENDER[1]}-01"
    web.post(BODY)
    web.post({**BODY, "id": "another"}, traceparent=given)
    wait_until(lambda: len(simulator.scored_keys()) == 2, "both calls are made")
    assert sorted(request.headers.get("traceparent", "") for request in simulator.requests["score"]) == ["", given]
    assert sorted(record.headers.get("traceparent", "") for record in deployment.seen()) == ["", given]
    assert (web.stop(), relay.stop()) == (0, 0)


def test_a_process_without_spans_needs_no_packages(tmp_path: Path, without_opentelemetry: dict[str, str]) -> None:
    """A migration runs although the variable, meant for web and relay, is set for it as well."""
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'outbox.db'}", "RELAY_SHARDS": "1"}
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    ended = subprocess.run(
        [sys.executable, "-m", "relay", "migrate"],
        env={**os.environ, **database, **endpoint, **without_opentelemetry},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    expect(ended, 0, stdout="schema created")


WEB, RELAY = ["gunicorn", "-c", "python:app.gunicorn_conf", APPLICATION], ["relay", "run"]


@pytest.mark.parametrize("arguments", [WEB, RELAY], ids=["web", "relay"])
def test_a_process_that_cannot_trace_does_not_start(
    arguments: list[str], without_opentelemetry: dict[str, str]
) -> None:
    """It says that the packages are missing, or that the protocol is another one."""
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    for environ, text in ((without_opentelemetry, "with its extra otel"), (grpc, "expected http/protobuf")):
        ended = subprocess.run(
            [sys.executable, "-m", *arguments],
            env={**os.environ, "DATABASE_URL": "sqlite:///none.db", **SETTINGS, **SERVICES, **endpoint, **environ},
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        expect(ended, 1, stderr=text)
