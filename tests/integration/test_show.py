"""``relay show``: a row's history, its record in the topic, and how they compare."""

import json
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from testkit.command_line import command, expect
from testkit.deployment import Deployment
from testkit.rows import incompressible, new_row, new_rows
from testkit.topic import create_topics
from testkit.waiting import wait_until

MAIL = "someone@example.com"


def shown(deployment: Deployment, row_id: int, *arguments: str, **environ: str) -> dict[str, Any]:
    """Return what ``relay show --json`` prints."""
    ended = command(deployment.environ, "show", str(row_id), "--json", *arguments, **environ)
    assert ended.stdout, ended.stderr
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def test_a_sent_row_is_found_in_the_topic(deployment: Deployment) -> None:
    """Partition, offset and headers are those of its record; call, transaction and time of sending are shown."""
    ids = deployment.record(new_rows(300, interactions=30))
    deployment.relay(INFERENCE_URL="http://127.0.0.1:9/")
    deployment.wait_drained()
    (record,) = [seen for seen in deployment.seen() if seen.outbox_id == ids[150]]
    row = shown(deployment, ids[150], "--verify")
    found = row["kafka"]["record"]
    assert (found["partition"], found["offset"], found["key"]) == (record.partition, record.offset, record.key)
    assert found["headers"] == record.headers
    assert row["kafka"]["differences"] == []
    assert row["kafka"]["transactional_id"] == f"{deployment.environ['KAFKA_TRANSACTIONAL_ID_PREFIX']}01"
    assert row["state"] == "sent"
    assert row["sequence"] >= 1
    assert row["inference"]["state"] == "due"
    as_text = command(deployment.environ, "show", str(ids[150]), "--verify")
    expect(as_text, 0, stdout=f"partition {record.partition}, offset {record.offset}")
    expect(as_text, 0, stdout="the record matches the row")
    deployment.execute(
        f"UPDATE outbox_sent SET sent_at = sent_at + 7200000 WHERE id = {ids[150]}"
    )  # as after a long outage
    assert shown(deployment, ids[150])["kafka"]["record"] == found


def test_a_wrong_clock_hides_no_record(deployment: Deployment) -> None:
    """A record is found among the topic's newest although its host's clock was an hour behind the database's."""
    (row_id,) = deployment.record([new_row("i-1")])
    deployment.relay()
    deployment.wait_drained()
    deployment.execute("UPDATE outbox SET received_at = received_at + 3600000")
    deployment.execute("UPDATE outbox_sent SET sent_at = sent_at + 3600000")
    assert shown(deployment, row_id)["kafka"]["record"]["offset"] == 0


def test_what_differs_from_the_topic_is_named(deployment: Deployment) -> None:
    """--verify exits with 4 if the record differs from the row, or a row marked sent has no record."""
    ids = deployment.record([new_row("i-1"), new_row("i-2"), new_row("i-3")])
    deployment.relay()
    deployment.wait_drained()
    deployment.execute(f"UPDATE outbox SET channel = 'mail', customer_email = NULL WHERE id = {ids[0]}")
    differs = command(deployment.environ, "show", str(ids[0]), "--verify")
    expect(differs, 4, stdout="DIFFERENT in channel, customerEmail")
    assert MAIL not in differs.stdout
    deployment.execute(f"UPDATE outbox SET interaction_id = 'nowhere' WHERE id = {ids[1]}")
    missing = command(deployment.environ, "show", str(ids[1]), "--verify")
    expect(missing, 4, stdout="not in")
    expect(command(deployment.environ, "show", str(ids[2]), "--verify"), 0)


def test_an_uncommitted_record_is_not_found(deployment: Deployment) -> None:
    """A record of an aborted transaction does not count, and a pending row needs no record."""
    (row_id,) = deployment.record([new_row("i-1")])
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "1000000"}))
    producer = Producer({**deployment.client_config, "transactional.id": f"{deployment.topic}-other"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(deployment.topic, b"x", b"i-1", headers=[("outbox-id", b"%d" % row_id)])
    producer.flush(30)
    producer.abort_transaction(30)
    row = shown(deployment, row_id, "--verify")
    assert (row["kafka"]["record"], row["kafka"]["looked_up"], row["ahead"]) == (None, True, 0)
    expect(command(deployment.environ, "show", str(row_id), "--verify"), 0)


def test_a_parked_row_and_the_rows_behind_it_name_each_other(deployment: Deployment) -> None:
    """A parked row shows its error and how many rows wait behind it; a waiting row names the parked one."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record([new_row("i-1", **incompressible()), new_row("i-1"), new_row("i-1"), new_row("i-2")])
    deployment.relay()
    wait_until(
        lambda: deployment.query("SELECT id FROM outbox_rows WHERE state = 'parked'") == [(ids[0],)], "it is parked"
    )
    parked, waiting = shown(deployment, ids[0]), shown(deployment, ids[2])
    assert parked["behind"] == 2
    assert "MSG_SIZE_TOO_LARGE" in parked["error"]
    assert (waiting["waits_for"], waiting["ahead"]) == (ids[0], 1)


def test_a_chain_of_replays_is_shown_at_both_ends(deployment: Deployment) -> None:
    """The last replay names all its originals; the first row names all its replays and its audit entry."""
    (first,) = deployment.record([new_row("i-1")])
    deployment.relay()
    deployment.wait_drained()
    for condition in ("", "replay_of IS NOT NULL AND "):
        ((row_id,),) = deployment.query(f"SELECT max(id) FROM outbox_rows WHERE {condition} state = 'sent'")
        expect(command(deployment.environ, "replay", "--id", str(row_id), "--reason", "again", "--yes"), 0)
        deployment.wait_drained()
    (_, second, third) = [row_id for (row_id,) in deployment.query("SELECT id FROM outbox ORDER BY id")]
    oldest, newest = shown(deployment, first), shown(deployment, third, "--verify")
    assert [(link["id"], link["replay_of"]) for link in oldest["replays"]] == [(second, first), (third, second)]
    assert [link["id"] for link in newest["originals"]] == [first, second]
    assert [entry["reason"] for entry in oldest["audit"]] == ["again"]
    assert newest["audit"] == []
    assert newest["kafka"]["differences"] == []


def test_a_revealed_payload_is_audited(deployment: Deployment) -> None:
    """Personal values are masked; --reveal shows them, requires a reason and adds an audit entry."""
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
    expect(revealed, 0, stdout=MAIL)
    assert '"x": "\\x1b[2J"' in revealed.stdout
    ((actor, verb, reason),) = deployment.query("SELECT actor, verb, reason FROM outbox_audit")
    assert (actor, verb, reason) == ("ann", "reveal", "the customer asks")
    expect(command(deployment.environ, "audit", "--verify"), 0)


def test_a_row_is_shown_without_kafka(deployment: Deployment) -> None:
    """If settings are missing or the broker is down, the record is "not looked up"."""
    (row_id,) = deployment.record([new_row("i-1")])
    unset = shown(deployment, row_id, KAFKA_BOOTSTRAP_SERVERS="")
    assert unset["kafka"]["not_seen"].startswith("not looked up: KAFKA_BOOTSTRAP_SERVERS is not set")
    away = command(deployment.environ, "show", str(row_id), "--verify", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9")
    expect(away, 1, stdout="not looked up: ")
    expect(command(deployment.environ, "show", "4711"), 3, stderr="the outbox has no row 4711")


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC", "KAFKA_TRANSACTIONAL_ID_PREFIX"])
def test_settings_of_another_outbox_raise_no_false_alarm(deployment: Deployment, name: str) -> None:
    """With another topic or prefix, a missing record means nothing: the setting is named instead."""
    (row,) = deployment.record([new_row()])
    deployment.relay()
    deployment.wait_drained()
    ended = command(deployment.environ, "show", str(row), "--verify", **{name: "another"})
    expect(ended, 1, stdout=f"the settings differ from what this outbox was used with: {name} was")
    assert "not in another" not in ended.stdout
