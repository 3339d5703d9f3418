"""``relay verify``: each planted fault is found with its kind, and a clean topic has none."""

import json
import re
import socket
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from time import time
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from config.settings import load
from outbox.db.engine import BEGIN
from outbox.insert import as_json
from outbox.models import new_nonce
from outbox.sql.insert import INSERT_POSTGRESQL
from outbox.states import RowState
from relay.errors import UnavailableError
from relay.kafka.topic_scan import committed_records, ranges_since
from relay.settings import RelaySettings
from relay.verify.verifier import Verifier
from testkit import ROOT
from testkit.command_line import command, expect
from testkit.deployment import Deploy, Deployment, NewDeployment
from testkit.outbox import set_state
from testkit.ports import free_port
from testkit.raw_record import write_record
from testkit.relay_process import RelayProcess
from testkit.rows import new_row, new_rows
from testkit.services import ExternalService, Kafka
from testkit.topic import ConsumedRecord, alter_topic, create_topics
from testkit.waiting import wait_until

MAIL = "someone@example.com"


def verdict(deployment: Deployment, *arguments: str, code: int = 0, **environ: str) -> dict[str, Any]:
    """Return what ``relay verify --json`` prints."""
    ended = command(deployment.environ, "verify", "--until", "now", "--json", *arguments, **environ)
    expect(ended, code)
    assert MAIL not in ended.stdout
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def faults(fields: dict[str, Any]) -> dict[str, int]:
    """Return the faults that were found."""
    return {kind: count for kind, count in fields["faults"].items() if count}


def notes(fields: dict[str, Any]) -> dict[str, int]:
    """Return the other findings."""
    return {kind: count for kind, count in fields["notes"].items() if count}


def sent(new_deployment: NewDeployment, count: int = 60, shards: int = 2) -> tuple[Deployment, list[int]]:
    """Deploy, and send rows of ten interactions; return their ids."""
    deployment = new_deployment(shards)
    ids = deployment.record(new_rows(count))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.stop()
    return deployment, ids


def restore(
    deployment: Deployment, change: Callable[[list[ConsumedRecord]], Sequence[ConsumedRecord]]
) -> dict[str, str]:
    """Copy the topic, changed, as a broker's restored disk would have it; return the settings for the copy."""
    copy = f"{deployment.topic}-copy"
    records = change(deployment.seen())
    partitions = 1 + max(record.partition for record in records)
    create_topics(deployment.client_config, NewTopic(copy, partitions, 1))
    produce(Producer(deployment.client_config), copy, records)
    deployment.execute(f"UPDATE outbox_identity SET topic = '{copy}'")
    return {"KAFKA_TOPIC": copy}


def produce(producer: Producer, topic: str, records: Sequence[ConsumedRecord], ahead_ms: int = 0) -> None:
    """Write records as a producer that is no relay, and whose clock may be ahead."""
    now_ms = round(time() * 1000) + ahead_ms
    for record in records:
        headers: list[tuple[str, str | bytes | None]] = [
            (name, value.encode()) for name, value in record.headers.items()
        ]
        producer.produce(topic, record.value, record.key.encode(), record.partition, timestamp=now_ms, headers=headers)
    assert producer.flush(30) == 0


def test_each_planted_fault_is_found_with_its_kind(new_deployment: NewDeployment) -> None:
    """A missing, a doubled, a swapped, a changed and a foreign record are named, and nothing else is."""
    deployment, ids = sent(new_deployment)
    clean = verdict(deployment, "--values")
    assert (clean["verdict"], clean["rows"], clean["in_topic"], faults(clean)) == ("ok", 60, 60, {})
    seen = {record.outbox_id: record for record in deployment.seen()}
    lost, twice, changed = ids[5], ids[16], ids[27]
    early, late = ids[38], ids[48]  # of one interaction
    foreign = seen[lost]._replace(headers={**seen[lost].headers, "outbox-id": str(ids[-1] + 1000)})

    def planted(records: list[ConsumedRecord]) -> list[ConsumedRecord]:
        other = {early: seen[late], late: seen[early], changed: seen[changed]._replace(value=seen[ids[28]].value)}
        kept = [other.get(record.outbox_id, record) for record in records if record.outbox_id != lost]
        return [*kept, seen[twice], foreign]

    environ = restore(deployment, planted)
    found = verdict(deployment, "--values", code=4, **environ)
    assert faults(found) == {"missing": 1, "doubled": 1, "out_of_order": 1, "changed": 1, "unknown": 1}
    first = {kind: [sample["id"] for sample in samples] for kind, samples in found["samples"].items()}
    assert first == {
        "missing": [lost],
        "doubled": [twice],
        "out_of_order": [early],
        "changed": [changed],
        "unknown": [ids[-1] + 1000],
    }
    assert notes(found) == {}
    as_text = command(deployment.environ, "verify", "--until", "now", **environ)
    expect(as_text, 4, stdout=f"first: {lost}\n")
    assert MAIL not in as_text.stdout


def test_a_clean_topic_after_kills_has_no_fault(new_deployment: NewDeployment) -> None:
    """Relays killed before and after commits, and aborted transactions, leave nothing to report."""
    deployment = new_deployment(2, RELAY_BATCH_SIZE="20")
    for step in ("encoded", "committed", "marked"):
        deployment.record(new_rows(100))
        relay = deployment.relay(kill_at=step)
        wait_until(lambda: not relay.running(), f"the relay dies at {step}")  # noqa: B023 - called at once
    deployment.relay()
    deployment.wait_drained()
    found = verdict(deployment, "--values")
    assert (found["rows"], found["sent"], found["in_topic"], faults(found)) == (300, 300, 300, {})
    assert notes(found) == {}


def test_rows_that_are_not_sent_are_counted_by_state(new_deployment: NewDeployment) -> None:
    """Pending, parked and discarded rows are no fault, unless a parked or discarded one is in the topic."""
    deployment, ids = sent(new_deployment, shards=1)
    more = deployment.record([new_row(f"i-{number}") for number in range(3)])
    set_state(deployment.engine, f"id = {more[0]}", RowState.PARKED)
    set_state(deployment.engine, f"id = {more[1]}", RowState.DISCARDED)
    found = verdict(deployment)
    assert {state: found[state] for state in RowState} == {"pending": 1, "sent": 60, "parked": 1, "discarded": 1}
    set_state(deployment.engine, f"id = {ids[3]}", RowState.DISCARDED)
    set_state(deployment.engine, f"id = {ids[4]}", RowState.PENDING)
    found = verdict(deployment, code=4)
    assert (faults(found), notes(found)) == ({"unsent": 1}, {"not_marked": 1})
    assert found["samples"]["unsent"][0]["id"] == ids[3]


def test_a_row_in_no_state_is_missing(new_deployment: NewDeployment) -> None:
    """Nothing would ever send it, and no count of a state has it."""
    deployment, _ = sent(new_deployment, shards=1)
    (lost, _) = deployment.record([new_row("i-1"), new_row("i-2")])
    deployment.execute(f"DELETE FROM outbox_pending WHERE id = {lost}")
    verifier = passes(deployment)
    for _ in range(2):
        found = verifier.run_pass().as_json()
        assert (faults(found), found["samples"]["missing"][0]["id"], found["pending"]) == ({"missing": 1}, lost, 1)


def test_what_cannot_be_compared_is_told(new_deployment: NewDeployment) -> None:
    """Pruned and erased rows, and records that the topic's retention removed, are no faults and not silent."""
    deployment, ids = sent(new_deployment)
    act = ("--reason", "test", "--yes")
    expect(command(deployment.environ, "prune", "--id", str(ids[30]), *act), 0)
    expect(command(deployment.environ, "erase", "--interaction", "i-7", *act), 0)
    found = verdict(deployment, "--values")
    assert (found["rows"], faults(found), notes(found)) == (59, {}, {"pruned": 1, "erased": 6})
    lost = deployment.record([new_row("i-new")])
    set_state(deployment.engine, f"id = {lost[0]}", RowState.SENT)
    assert faults(verdict(deployment, code=4)) == {"missing": 1}
    alter_topic(deployment.client_config, deployment.topic, "cleanup.policy", "compact,delete")
    found = verdict(deployment)
    assert (faults(found), notes(found)["expired"]) == ({}, 1)
    alter_topic(deployment.client_config, deployment.topic, "cleanup.policy", "delete")
    partition = deployment.seen()[0].partition
    held = [record for record in deployment.seen() if record.partition == partition]
    until = TopicPartition(deployment.topic, partition, held[4].offset)
    admin = AdminClient(deployment.client_config)
    admin.delete_records([until])[until].result(10)
    gone = {record.outbox_id for record in held[:4]} - {ids[30]}
    found = verdict(deployment)
    assert (faults(found), notes(found)["expired"]) == ({}, len(gone | set(lost)))


def test_only_the_range_is_compared(new_deployment: NewDeployment) -> None:
    """Rows that were received before or after the range, and their records, count for nothing."""
    deployment = new_deployment()
    relay = deployment.relay()
    for _ in range(3):
        deployment.record(new_rows(20))
        deployment.wait_drained()
    relay.stop()
    (times,) = deployment.query("""
        SELECT (SELECT received_at FROM outbox WHERE id = 21), (SELECT received_at FROM outbox WHERE id = 41)
    """)
    found = verdict(deployment, "--since", str(times[0]), "--until", str(times[1]), "--values")
    assert (found["rows"], found["in_topic"], found["records"], faults(found), notes(found)) == (20, 20, 60, {}, {})
    later = str(times[1] + 3_600_000)
    expect(command(deployment.environ, "verify", "--since", later, "--until", str(times[1] + 3_700_000)), 3)


def test_records_of_others_are_no_fault_in_a_shared_topic(new_deployment: NewDeployment) -> None:
    """A record without an outbox id, or of a row that this outbox gave another content, is unknown or foreign."""
    deployment, ids = sent(new_deployment, shards=1)
    record = deployment.seen()[0]
    others = [
        record._replace(headers={}),
        record._replace(headers={**record.headers, "received-at": "1"}),
        record._replace(key="of another outbox"),
        record._replace(headers={**record.headers, "outbox-id": "nonsense"}),
    ]
    produce(Producer(deployment.client_config), deployment.topic, others)
    found = verdict(deployment, code=4)
    assert (faults(found), found["in_topic"]) == ({"unknown": 4}, len(ids))
    found = verdict(deployment, "--shared-topic")
    assert (faults(found), notes(found)) == ({}, {"foreign": 4})


def test_a_record_that_the_client_cannot_read_ends_nothing(new_deployment: NewDeployment) -> None:
    """A header whose name is not UTF-8: the record is unknown, and every row is found all the same."""
    deployment, ids = sent(new_deployment, shards=1)
    record = next(record for record in deployment.seen() if record.partition == 0)
    headers = [(b"outbox-id", b"%d" % record.outbox_id), (b"\xff", b"")]
    address = deployment.environ["KAFKA_BOOTSTRAP_SERVERS"].split(",")[0]
    write_record(address, deployment.topic, record.key.encode(), record.value, headers, round(time() * 1000))
    found = verdict(deployment, "--values", code=4)
    assert (faults(found), found["in_topic"]) == ({"unknown": 1}, len(ids))
    expect(command(deployment.environ, "show", str(record.outbox_id), "--verify"), 0)


class EndsTransaction:
    """A report of progress that ends an open transaction once no more records arrive."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end, self._done, self.ended = end, [-1, -2], False

    def __call__(self, what: str, done: int, _total: int) -> None:
        """Note how much was read."""
        if what == "records" and not self.ended and self._done == [done, done]:
            self._end()
            self.ended = True
        self._done = [self._done[1], done]


@pytest.mark.parametrize(
    ("end", "expected"), [(Producer.abort_transaction, {}), (Producer.commit_transaction, {"doubled": 1})]
)
def test_an_open_transaction_is_waited_for(
    new_deployment: NewDeployment, end: Callable[[Producer], None], expected: dict[str, int]
) -> None:
    """Rows behind it are not missing. What is aborted counts for nothing; what is committed does."""
    deployment, _ = sent(new_deployment, shards=1)
    producer = Producer({**deployment.client_config, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    produce(producer, deployment.topic, deployment.seen()[:1])
    deployment.record(new_rows(20))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.stop()
    report = EndsTransaction(lambda: end(producer))
    settings, until_ms = load(RelaySettings, deployment.environ), round(time() * 1000) + 1
    found = Verifier(deployment.engine, settings, None, until_ms, report=report).run_pass()
    assert report.ended
    assert (found.rows, found.in_topic, faults(found.as_json())) == (80, 80, expected)


def test_several_outboxes_share_a_topic(new_deployment: NewDeployment) -> None:
    """Each is verified for itself, although both have rows with the same ids and interactions."""
    first, ids = sent(new_deployment, shards=1)
    second = new_deployment()
    second.environ["KAFKA_TOPIC"] = first.topic
    assert second.record(new_rows(30)) == ids[:30]
    relay = second.relay()
    second.wait_drained()
    relay.stop()
    for deployment, own, others in ((first, 60, 30), (second, 30, 60)):
        found = verdict(deployment, "--shared-topic", "--values", "--since", "1h")
        assert (found["in_topic"], faults(found), notes(found)) == (own, {}, {"foreign": others})


def test_a_row_that_was_sent_again_may_be_behind_later_ones(new_deployment: NewDeployment) -> None:
    """With OUTBOX_ON_PARKED=skip a retried row follows later ones, as the audit shows; otherwise that is a fault."""
    deployment = new_deployment(OUTBOX_ON_PARKED="skip")
    ids = deployment.record([new_row("i-1"), new_row("i-1")])
    set_state(deployment.engine, f"id = {ids[0]}", RowState.PARKED)
    deployment.relay()
    deployment.wait_drained()
    expect(command(deployment.environ, "retry", "--all", "--reason", "test", "--yes"), 0)
    deployment.wait_drained()
    found = verdict(deployment)
    assert (faults(found), notes(found)) == ({}, {"reordered": 1})
    assert faults(verdict(deployment, code=4, OUTBOX_ON_PARKED="block")) == {"out_of_order": 1}


def test_requests_that_overlap_have_no_order(
    new_postgresql: Callable[[], str], kafka: Kafka | ExternalService, deploy: Deploy
) -> None:
    """A row gets its id before it is committed: with two web processes another one may be sent meanwhile."""
    deployment = deploy(new_postgresql(), kafka)
    deployment.relay()
    connection = deployment.engine.raw_connection()
    driver: Any = connection.driver_connection
    driver.execute(BEGIN["postgresql"])
    driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    driver.execute(INSERT_POSTGRESQL, (as_json([(new_row("i-1"), new_nonce())]),))
    deployment.record([new_row("i-1")])
    wait_until(lambda: deployment.query("SELECT id FROM outbox_sent"), "the second row is sent")
    connection.commit()
    connection.close()
    deployment.wait_drained()
    assert [record.outbox_id for record in deployment.seen()] == [2, 1]
    found = verdict(deployment, "--values")
    assert (found["in_topic"], faults(found), notes(found)) == (2, {}, {"reordered": 1})


def test_replays_are_rows_of_their_own_in_whichever_topic(new_deployment: NewDeployment) -> None:
    """A replay doubles nothing. Its topic is read as long as KAFKA_REPLAY_TOPICS names it."""
    deployment = new_deployment()
    again = f"{deployment.topic}-again"
    deployment.environ["KAFKA_REPLAY_TOPICS"] = again
    deployment.record(new_rows(10))
    relay = deployment.relay()
    deployment.wait_drained()
    for topic in ((), ("--topic", again)):
        act = ("--reason", f"test {topic}", "--yes", "--interaction", "i-3", *topic)
        expect(command(deployment.environ, "replay", *act), 0)
        deployment.wait_drained()
    relay.stop()
    found = verdict(deployment, "--values")
    assert (found["rows"], found["in_topic"], faults(found), notes(found)) == (13, 13, {}, {})
    found = verdict(deployment, KAFKA_REPLAY_TOPICS="")
    assert (found["in_topic"], faults(found), notes(found)) == (11, {}, {"not_read": 2})


def test_what_cannot_be_read_is_no_verdict(new_deployment: NewDeployment) -> None:
    """Another topic than the outbox was used with, and a topic that is gone, are errors, not faults."""
    deployment, _ = sent(new_deployment)
    other = command(deployment.environ, "verify", KAFKA_TOPIC="other")
    expect(other, 1, stderr="KAFKA_TOPIC was")
    deployment.execute("UPDATE outbox_identity SET topic = 'gone'")
    expect(command(deployment.environ, "verify", KAFKA_TOPIC="gone"), 1, stderr="topic gone does not exist")
    expect(command(deployment.environ, "verify", "--since", "1h", "--until", "2h"), 2, stderr="is not before")


def test_a_verdict_that_cannot_be_stored_is_printed(new_deployment: NewDeployment) -> None:
    """It may have taken an hour."""
    deployment, _ = sent(new_deployment)
    deployment.execute("ALTER TABLE outbox_verification RENAME TO elsewhere")
    assert verdict(deployment, code=1)["in_topic"] == 60


def test_what_is_received_in_the_last_minute_needs_an_end(new_deployment: NewDeployment) -> None:
    """The range ends a minute ago unless it is given: rows that came since are not "none"."""
    deployment, _ = sent(new_deployment)
    expect(command(deployment.environ, "verify", "--since", "30s"), 2, stderr="is not before --until")


def passes(deployment: Deployment) -> Verifier:
    """Return the verifier of a watch."""
    return Verifier(deployment.engine, load(RelaySettings, deployment.environ), None, None)


@pytest.mark.parametrize(("partitions", "grown"), [(1, False), (8, True)])
def test_a_watch_begins_anew_in_a_topic_that_was_created_again(
    new_deployment: NewDeployment, partitions: int, *, grown: bool
) -> None:
    """What it has read of the other topic says nothing, and its offsets are those of other records.

    That the new topic has more records by now does not hide it.
    """
    deployment, ids = sent(new_deployment)
    records = deployment.seen()
    verifier = passes(deployment)
    assert verifier.run_pass().is_clean
    assert verifier.run_pass().is_clean
    admin = AdminClient(deployment.client_config)
    admin.delete_topics([deployment.topic])[deployment.topic].result(10)
    wait_until(lambda: deployment.topic not in admin.list_topics(timeout=10).topics, "the topic is gone")
    create_topics(deployment.client_config, NewTopic(deployment.topic, partitions, 1))
    if grown:
        produce(Producer(deployment.client_config), deployment.topic, records[1:] * 2)
    with pytest.raises(UnavailableError, match="created again"):
        verifier.run_pass()
    found = faults(passes(deployment).run_pass().as_json())
    assert found == ({"missing": 1, "doubled": len(ids) - 1} if grown else {"missing": len(ids)})


def test_a_topic_that_lost_its_end_is_read_anew(new_deployment: NewDeployment) -> None:
    """A partition ends before what was read: an election took a replica that lacked the last records."""
    deployment, _ = sent(new_deployment, shards=1)
    admin = AdminClient(deployment.client_config)
    read = ranges_since(admin, deployment.topic, 0)
    assert ranges_since(admin, deployment.topic, 0, read).keys() == read.keys()
    longer = read[0]._replace(end=read[0].end + 1)
    with pytest.raises(UnavailableError, match="has lost its end"):
        ranges_since(admin, deployment.topic, 0, {**read, 0: longer})


def test_the_port_of_its_metrics_is_named_if_it_is_in_use(new_deployment: NewDeployment) -> None:
    """By the option that gives it, in one line."""
    deployment, _ = sent(new_deployment, 1, shards=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = command(deployment.environ, "verify", "--watch", "--metrics-port", port)
    expect(ended, 1, stderr=f"--metrics-port={port} cannot be listened on")
    assert len(ended.stderr.splitlines()) == 1


class DoesOnce:
    """A report of progress that does something when the first records are read."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._actions = iter([action])

    def __call__(self, what: str, _done: int, _total: int) -> None:
        """Note how much was read."""
        if what == "records":
            for action in self._actions:
                action()


def test_a_row_that_is_pruned_meanwhile_is_not_missing(new_deployment: NewDeployment) -> None:
    """The oldest rows are pruned while the topic, whose retention is shorter, is read."""
    deployment, _ = sent(new_deployment, shards=1)
    records = [record for record in deployment.seen() if record.partition == deployment.seen()[0].partition]
    until = TopicPartition(deployment.topic, records[0].partition, records[4].offset)
    admin = AdminClient(deployment.client_config)
    admin.delete_records([until])[until].result(10)
    pruned = ",".join(str(record.outbox_id) for record in records[:3])

    def prune() -> None:
        for table in ("outbox_sent", "outbox"):
            deployment.execute(f"DELETE FROM {table} WHERE id IN ({pruned})")

    settings, until_ms = load(RelaySettings, deployment.environ), round(time() * 1000) + 1
    found = Verifier(deployment.engine, settings, None, until_ms, report=DoesOnce(prune)).run_pass().as_json()
    assert (faults(found), notes(found)) == ({}, {"expired": 4})


def test_a_watch_finds_what_is_new_and_exports_it(new_deployment: NewDeployment) -> None:
    """A pass reads only what the one before did not, finds a record that is doubled meanwhile, and stores it."""
    deployment = new_deployment(2)
    relay = deployment.relay()
    deployment.record(new_rows(40))
    deployment.wait_drained()
    port = free_port()
    entry = ("relay", "verify", "--watch", "1", "--json", "--metrics-port", str(port))
    watch = RelayProcess(deployment.environ, deployment.folder / "watch.log", entry=entry)
    watch.metrics_port = port
    deployment.relays.append(watch)
    verified = partial(metric, watch, "outbox_verified_until_timestamp_seconds")
    wait_until(verified, "a pass has ended")
    described = (ROOT / "docs/metrics.md").read_text().split("\n## Verification\n")[1]
    names = set(re.findall(r"^# TYPE (outbox_\w+) ", watch.get("/metrics"), re.MULTILINE))
    assert set(re.findall(r"^\| `(outbox_\w+)`", described, re.MULTILINE)) == names
    assert metric(watch, 'outbox_verify_faults_total{kind="doubled"}') == 0
    deployment.record(new_rows(40))
    deployment.wait_drained()
    relay.stop()
    began = verified()
    wait_until(lambda: verified() > began + 1, "another pass has ended")
    twice = deployment.seen()[30]
    produce(Producer(deployment.client_config), deployment.topic, [twice, twice._replace(headers={})], ahead_ms=600_000)
    wait_until(lambda: metric(watch, 'outbox_verify_faults_total{kind="doubled"}'), "the doubled record is found")
    assert watch.stop() == 4
    passes = [line for line in watch.lines() if "verdict" in line]
    assert (passes[0]["rows"], passes[-1]["rows"], passes[-1]["records"], faults(passes[-1])) == (
        40, 80, 82, {"doubled": 1, "unknown": 1},
    )  # fmt: skip
    assert notes(passes[-1]) == {}
    status = command(deployment.environ, "status")
    expect(status, 0, stdout="topic: 1 doubled, 1 unknown in 80 rows received from")


def test_a_record_that_is_written_meanwhile_is_read_the_next_time(kafka: Kafka | ExternalService) -> None:
    """In a partition that was empty: skipped, it would count as missing once its row is marked sent."""
    config, topic = kafka.client_config, f"verify-{uuid.uuid4().hex[:8]}"
    create_topics(config, NewTopic(topic, 1, 1))

    class BusyAdmin(AdminClient):
        def list_offsets(self, *arguments: Any, **options: Any) -> Any:
            futures = super().list_offsets(*arguments, **options)
            for future in futures.values():
                future.result(10)
            producer = Producer(config)
            producer.produce(topic, b"value")
            assert producer.flush(20) == 0
            return futures

    first = ranges_since(BusyAdmin(config), topic, 0)
    second = ranges_since(AdminClient(config), topic, 0, first)
    pages = [*committed_records(config, topic, first), *committed_records(config, topic, second)]
    assert [message.offset() for page in pages for message in page] == [0, 1]


def metric(process: RelayProcess, name: str) -> float:
    """Return the value of a metric; 0: it is not exported yet."""
    values = [line.split()[-1] for line in process.get("/metrics").splitlines() if line.startswith(f"{name} ")]
    return float(values[0]) if values else 0.0
