"""Debezium in place of the relay, as docs/change-data-capture.md sets it up: there, in use, and back."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from sqlalchemy import make_url

from relay.check.replication import check_replication
from testkit import ROOT
from testkit.command_line import command, expect
from testkit.databases import migrate
from testkit.deployment import Deploy, Deployment
from testkit.load import LoadGenerator
from testkit.services import Connect, ExternalService, Kafka, Postgres
from testkit.services.fixtures import run_service
from testkit.topic import ConsumedRecord, assert_exactly_once, create_topics, read_topic
from testkit.waiting import wait_until

FILES = ROOT / "deploy" / "debezium"
CREATE_ROLE = "CREATE ROLE cxone_cdc LOGIN REPLICATION"
CREATE_SLOT = "SELECT pg_create_logical_replication_slot('cxone_outbox', 'pgoutput')"
DROP_SLOT = "SELECT pg_drop_replication_slot('cxone_outbox')"
SLOT_IS_FREE = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'cxone_outbox'"
CONFIRMED = "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = 'cxone_outbox'"
PARTITIONS = 3
CONNECTOR = json.loads((FILES / "connector.json").read_text())
NAME = CONNECTOR["name"]
SHORT_TIMES = {"heartbeat.interval.ms": "1000", "producer.override.transaction.timeout.ms": "10000"}
"""Of the connector: the slot advances sooner, and a dead worker's transaction ends sooner."""
WORKER_TIMES = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "2000", "scheduled.rebalance.max.delay.ms": "0"}
"""A dead worker is noticed sooner."""
FULL_BODY = {
    "id": "Å-1",
    "channel": "chat",
    "timestamp": 1_700_000_000_123,
    "customer": {"email": "någon@example.com"},
    "agent": {"id": 7},
}


@pytest.fixture
def deployment(own_postgres: Postgres, kafka: Kafka | ExternalService, deploy: Deploy) -> Deployment:
    """An outbox with two shards on a server of its own, as a slot retains the log of the whole server."""
    url = own_postgres.create_database("outbox").replace("postgresql://", "postgresql+psycopg://")
    migrate(url, shards=2)
    deployment = deploy(url, kafka)
    topics = deployment.topic, json_topic(deployment)
    create_topics(deployment.client_config, *(NewTopic(topic, PARTITIONS, 1) for topic in topics))
    return deployment


@pytest.fixture
def connect(deployment: Deployment, kafka: Kafka | ExternalService, tmp_path: Path) -> Iterator[Connect]:
    """A worker with the settings that are shipped."""
    url = make_url(deployment.url)
    environ = {
        "CDC_DATABASE_HOST": str(url.host),
        "CDC_DATABASE_PORT": str(url.port),
        "CDC_DATABASE_NAME": str(url.database),
        "CDC_DATABASE_USER": "cxone_cdc",
        "CDC_DATABASE_PASSWORD": "unused",
        "CDC_DATABASE_SSLMODE": "disable",
        "CDC_TOPIC": json_topic(deployment),
    }
    lines = (FILES / "worker.properties").read_text().splitlines()
    shipped = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    worker = Connect(tmp_path / "connect", kafka.bootstrap_servers, {**shipped, **WORKER_TIMES}, environ)
    yield from run_service(worker)


def json_topic(deployment: Deployment) -> str:
    """The topic that Debezium writes to."""
    return f"{deployment.topic}-json"


def set_up(deployment: Deployment, server: Postgres) -> None:
    """Create role, publication and slot."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(CREATE_ROLE)
    deployment.execute((FILES / "publication.sql").read_text())
    deployment.query(CREATE_SLOT)


def seen_by_debezium(deployment: Deployment) -> list[ConsumedRecord]:
    """Every record that a ``read_committed`` consumer sees in Debezium's topic."""
    return read_topic(deployment.client_config, json_topic(deployment))


def wait_until_sent(deployment: Deployment, ids: Sequence[int]) -> None:
    """Wait until Debezium has sent these rows."""
    wait_until(
        lambda: not set(ids) - {record.outbox_id for record in seen_by_debezium(deployment)},
        f"Debezium has sent rows {ids[0]} to {ids[-1]}",
    )


def kill_within_a_transaction(deployment: Deployment, connect: Connect) -> None:
    """Kill the worker (-9) while its transaction is open, and start another, which has to abort that one."""
    admin = AdminClient(deployment.client_config)
    partitions = [TopicPartition(json_topic(deployment), number) for number in range(PARTITIONS)]

    def ends(isolation: IsolationLevel) -> list[int]:
        latest = {partition: OffsetSpec.latest() for partition in partitions}
        return [each.result().offset for each in admin.list_offsets(latest, isolation_level=isolation).values()]

    def is_open() -> bool:
        return ends(IsolationLevel.READ_COMMITTED) < ends(IsolationLevel.READ_UNCOMMITTED)

    wait_until(lambda: any(is_open() for _ in range(100)), "Debezium has sent records that are not committed")
    connect.process.kill()
    connect.start()
    connect.wait_running(NAME)


def posted(deployment: Deployment) -> dict[int, tuple[str, dict[str, Any]]]:
    """By row, its time of receipt and the interaction of the body that was posted, in the fields of the record."""
    rows = deployment.query("SELECT id, received_at, timestamp_ms, payload FROM outbox")
    return {row_id: (str(received_at), fields(json.loads(body), now)) for row_id, received_at, now, body in rows}


def fields(body: dict[str, Any], now: int) -> dict[str, Any]:
    """The interaction of a body, in the fields of the record.

    Args:
        body: of the request.
        now: the webhook's time, for a body without a timestamp.
    """
    return {
        "interactionId": body["id"],
        "channel": body["channel"],
        "timestamp": body.get("timestamp", now),
        "customerEmail": body.get("customer", {}).get("email"),
        "agentId": str(body["agent"]["id"]) if "agent" in body else None,
    }


def assert_as_posted(deployment: Deployment, records: list[ConsumedRecord]) -> None:
    """Assert that key, headers and decoded value of each record are those of the interaction that was posted."""
    expected = posted(deployment)
    for record in records:
        received_at, interaction = expected[record.outbox_id]
        assert json.loads(record.value) == interaction
        assert record.key == interaction["interactionId"]
        assert set(record.headers) == {"outbox-id", "received-at", "traceparent"}
        assert record.headers["received-at"] == received_at


def operate(deployment: Deployment, *arguments: str) -> None:
    """Run a command that changes rows."""
    options = "--reason", "a test", "--yes"
    expect(command(deployment.environ, *arguments, *options, KAFKA_REPLAY_TOPICS=json_topic(deployment)), 0)


def mark_what_was_sent(deployment: Deployment) -> None:
    """Mark the rows whose records are in Debezium's topic."""
    operate(deployment, "reconcile", "--since", "1h", "--shard", "0", "--shard", "1")


def assert_the_slot_advances(deployment: Deployment) -> None:
    """Assert that the server need not keep the log of what others write while no interaction arrives."""
    ((written,),) = deployment.query("SELECT pg_logical_emit_message(false, 'elsewhere', repeat('x', 100000))")
    wait_until(lambda: deployment.query(CONFIRMED.format(written)) == [(True,)], "the heartbeat has advanced the slot")


def capture_finding(deployment: Deployment) -> str:
    """What ``relay check`` says of the slot."""
    (found,) = check_replication(deployment.engine)
    return f"{found.status}: {found.detail}"


def assert_each_key_has_one_partition(records: list[ConsumedRecord]) -> None:
    """Assert that Debezium and the relay choose the same partition for an interaction; the topics have as many."""
    partitions: defaultdict[str, set[int]] = defaultdict(set)
    for record in records:
        partitions[record.key].add(record.partition)
    assert {key: chosen for key, chosen in partitions.items() if len(chosen) > 1} == {}


@pytest.mark.timeout(900)
def test_debezium_takes_over_and_gives_back(deployment: Deployment, own_postgres: Postgres, connect: Connect) -> None:
    """Each interaction is sent once and in order: before, by a connector that is killed, and by the relay after it."""
    web, relay = deployment.web(), deployment.relay()
    ids = [web.post({"id": "sender-0-0", "channel": "voice", "turn": -1}).json()["outboxId"]]
    deployment.wait_drained()
    relay.stop()
    set_up(deployment, own_postgres)

    ids.append(web.post(FULL_BODY).json()["outboxId"])  # before the connector exists
    connect.create(NAME, {**CONNECTOR["config"], **SHORT_TIMES})
    wait_until_sent(deployment, ids[1:])
    assert_the_slot_advances(deployment)
    load = LoadGenerator(lambda: web, senders=2, interactions=3, pause_seconds=0.01)
    kill_within_a_transaction(deployment, connect)
    load.wait_for_accepted(20)
    wait_until_sent(deployment, [each.outbox_id for each in load.accepted])
    assert_as_posted(deployment, seen_by_debezium(deployment))
    assert "its reader is connected" in capture_finding(deployment)

    mark_what_was_sent(deployment)  # as every night, to prune
    operate(deployment, "prune", "--state", "sent")
    assert deployment.query("SELECT count(*) FROM outbox WHERE id < 20") == [(0,)]
    load.wait_for_accepted(10)
    wait_until_sent(deployment, [each.outbox_id for each in load.accepted])

    connect.stop_connector(NAME)
    wait_until(lambda: deployment.query(SLOT_IS_FREE) == [(True,)], "the slot is free")
    load.wait_for_accepted(10)  # Debezium sends none of these
    ids += load.stop()
    sent = seen_by_debezium(deployment)
    mark_what_was_sent(deployment)
    assert 10 <= deployment.pending() < len(ids)
    deployment.query(DROP_SLOT)
    assert capture_finding(deployment).startswith("ok")
    connect.resume_connector(NAME)  # by mistake: without its slot it does not skip what it missed
    wait_until(lambda: "no longer available" in connect.failure(NAME), "the connector fails")
    deployment.relay()
    deployment.wait_drained()
    first, *last = deployment.seen()
    assert len(seen_by_debezium(deployment)) == len(sent)
    assert_exactly_once([first, *sent, *last], ids)
    assert_each_key_has_one_partition([first, *sent, *last])
