"""``relay show``: a row's whole life, found in the topic and compared with it."""

import json
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from testkit.command_line import command, expect
from testkit.deployment import Deployment
from testkit.rows import culprit, new_row, new_rows
from testkit.topic import create_topics
from testkit.waiting import wait_until

MAIL = "someone@example.com"


def shown(deployment: Deployment, row_id: int, *arguments: str, **environ: str) -> dict[str, Any]:
    """What ``relay show --json`` tells."""
    ended = command(deployment.environ, "show", str(row_id), "--json", *arguments, **environ)
    assert ended.stdout, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_a_sent_row_is_found_in_the_topic(deployment: Deployment) -> None:
    """Partition, offset and headers are those of its record; its call, its transaction and its mark are told."""
    ids = deployment.record(new_rows(300, interactions=30))
    deployment.relay(INFERENCE_URL="http://127.0.0.1:9/")
    deployment.wait_drained()
    (record,) = [seen for seen in deployment.seen() if seen.outbox_id == ids[150]]
    told = shown(deployment, ids[150], "--verify")
    found = told["kafka"]["record"]
    assert (found["partition"], found["offset"], found["key"]) == (record.partition, record.offset, record.key)
    assert found["headers"] == record.headers
    assert told["kafka"]["differences"] == []
    assert told["kafka"]["transactional_id"] == f"{deployment.environ['KAFKA_TRANSACTIONAL_ID_PREFIX']}01"
    assert (told["state"], told["sequence"] >= 1, told["inference"]["state"]) == ("sent", True, "due")
    as_text = command(deployment.environ, "show", str(ids[150]), "--verify")
    assert as_text.returncode == 0
    assert f"partition {record.partition}, offset {record.offset}" in as_text.stdout
    assert "the record is as the row" in as_text.stdout
    deployment.execute(f"UPDATE outbox SET sent_at = sent_at + 7200000 WHERE id = {ids[150]}")  # as after a long outage
    assert shown(deployment, ids[150])["kafka"]["record"] == found


def test_what_differs_from_the_topic_is_named(deployment: Deployment) -> None:
    """--verify is 4 when the row is not what was sent, and when a row marked sent is not in the topic."""
    ids = deployment.record([new_row("i-1"), new_row("i-2"), new_row("i-3")])
    deployment.relay()
    deployment.wait_drained()
    deployment.execute(f"UPDATE outbox SET channel = 'mail', customer_email = NULL WHERE id = {ids[0]}")
    differs = command(deployment.environ, "show", str(ids[0]), "--verify")
    assert differs.returncode == 4
    assert "DIFFERENT in channel, customerEmail" in differs.stdout
    assert MAIL not in differs.stdout
    deployment.execute(f"UPDATE outbox SET interaction_id = 'nowhere' WHERE id = {ids[1]}")
    missing = command(deployment.environ, "show", str(ids[1]), "--verify")
    expect(missing, 4, stdout="not in")
    assert command(deployment.environ, "show", str(ids[2]), "--verify").returncode == 0


def test_an_uncommitted_record_is_not_found(deployment: Deployment) -> None:
    """A record of an aborted transaction is no record: a pending row is in order without one."""
    (row_id,) = deployment.record([new_row("i-1")])
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "1_000_000"}))
    producer = Producer({**deployment.client_config, "transactional.id": f"{deployment.topic}-other"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(deployment.topic, b"x", b"i-1", headers=[("outbox-id", b"%d" % row_id)])
    producer.flush(30)
    producer.abort_transaction(30)
    told = shown(deployment, row_id, "--verify")
    assert (told["kafka"]["record"], told["kafka"]["looked_up"], told["ahead"]) == (None, True, 0)
    assert command(deployment.environ, "show", str(row_id), "--verify").returncode == 0


def test_what_waits_and_what_it_waits_for(deployment: Deployment) -> None:
    """A parked row tells its error and how many wait; a waiting row names the parked one."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record([new_row("i-1", **culprit()), new_row("i-1"), new_row("i-1"), new_row("i-2")])
    deployment.relay()
    wait_until(lambda: deployment.query("SELECT id FROM outbox WHERE state = 'parked'") == [(ids[0],)], "it is parked")
    parked, waiting = shown(deployment, ids[0]), shown(deployment, ids[2])
    assert (parked["behind"], "MSG_SIZE_TOO_LARGE" in parked["error"]) == (2, True)
    assert (waiting["waits_for"], waiting["ahead"]) == (ids[0], 1)


def test_replays_are_a_chain_and_their_orders_are_on_record(deployment: Deployment) -> None:
    """A replay of a replay names both its originals; the first names both its replays, and the audit entry."""
    (first,) = deployment.record([new_row("i-1")])
    deployment.relay()
    deployment.wait_drained()
    for of in ("", "replay_of IS NOT NULL AND "):
        ((row_id,),) = deployment.query(f"SELECT max(id) FROM outbox WHERE {of} state = 'sent'")
        assert command(deployment.environ, "replay", "--id", str(row_id), "--reason", "again", "--yes").returncode == 0
        deployment.wait_drained()
    (_, second, third) = [row_id for (row_id,) in deployment.query("SELECT id FROM outbox ORDER BY id")]
    oldest, newest = shown(deployment, first), shown(deployment, third, "--verify")
    assert [(link["id"], link["replay_of"]) for link in oldest["replays"]] == [(second, first), (third, second)]
    assert [link["id"] for link in newest["originals"]] == [first, second]
    assert [entry["reason"] for entry in oldest["audit"]] == ["again"]
    assert newest["audit"] == []
    assert newest["kafka"]["differences"] == []


def test_the_payload_is_shown_only_on_the_record(deployment: Deployment) -> None:
    """Masked; with --reveal and a reason it is shown, and who asked is in the audit."""
    (row_id,) = deployment.record([new_row("i-1", payload=b'{"id": "i-1", "x": "\x1b[2J"}')])
    masked = command(deployment.environ, "show", str(row_id)).stdout + json.dumps(shown(deployment, row_id))
    assert MAIL not in masked
    assert "agent-7" not in masked
    assert '"x"' not in masked
    unreasoned = command(deployment.environ, "show", str(row_id), "--reveal")
    expect(unreasoned, 2, stderr="--reason")
    assert deployment.query("SELECT count(*) FROM outbox_audit") == [(0,)]
    named = command(deployment.environ, "show", str(row_id), "--reveal", "--reason", f"{MAIL} asks")
    expect(named, 2, stderr="not by an e-mail address")
    revealed = command(deployment.environ, "show", str(row_id), "--reveal", "--reason", "the customer asks")
    assert MAIL in revealed.stdout
    assert '"x": "\\x1b[2J"' in revealed.stdout
    ((actor, verb, reason),) = deployment.query("SELECT actor, verb, reason FROM outbox_audit")
    assert (actor, verb, reason) == ("ann", "reveal", "the customer asks")
    assert command(deployment.environ, "audit", "--verify").returncode == 0


def test_without_kafka_the_rest_is_told(deployment: Deployment) -> None:
    """Settings that are missing, or a broker that is away: the row is told, its record "not looked up"."""
    (row_id,) = deployment.record([new_row("i-1")])
    unset = shown(deployment, row_id, KAFKA_BOOTSTRAP_SERVERS="")
    assert unset["kafka"]["not_seen"].startswith("not looked up: KAFKA_BOOTSTRAP_SERVERS is not set")
    away = command(deployment.environ, "show", str(row_id), "--verify", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9")
    expect(away, 1, stdout="not looked up: ")
    assert command(deployment.environ, "show", "4711").returncode == 3


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC", "KAFKA_TRANSACTIONAL_ID_PREFIX"])
def test_settings_of_another_outbox_raise_no_false_alarm(deployment: Deployment, name: str) -> None:
    """With another topic or prefix nothing is concluded from the topic: the setting is named, and nobody is alarmed."""
    (row,) = deployment.record([new_row()])
    deployment.relay()
    deployment.wait_drained()
    shown = command(deployment.environ, "show", str(row), "--verify", **{name: "another"})
    assert shown.returncode == 1
    assert f"the settings differ from what this outbox was used with: {name} was" in shown.stdout
    assert "not in another" not in shown.stdout
