"""What ``relay check`` makes of what it sees; nothing is looked at here."""

from dataclasses import replace

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from outbox.db.diagnostics import DatabaseInfo
from outbox.models import Identity
from relay.check import judge_identity
from relay.check.broker import Cluster, Complaints, judge_cluster, judge_silence, judge_transactions
from relay.check.database import judge_revision, judge_vitals
from relay.check.finding import Finding, Status
from relay.check.services import check_inference, judge_inference, judge_registry_error
from relay.check.topics import Purpose, Topic, judge_hidden, judge_settings, judge_topic
from relay.kafka.errors import describe, explain
from relay.settings import RelaySettings

SETTINGS = RelaySettings(kafka_bootstrap_servers="broker.example:9092", schema_registry_url="http://registry.example")
SQLITE = DatabaseInfo("sqlite", (3, 53, 4), {"journal_mode": "wal", "synchronous": "2"}, False, 1_000_000, 10**12, 0.0)
DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "synchronous_standby_names": "other",
}
POSTGRESQL = DatabaseInfo("postgresql", (18, 1), DURABLE, False, 1_000_000, None, 0.0)
TOPIC = Topic("t", frozenset({"READ", "WRITE", "DESCRIBE"}), 8, 0, 3, 3)
PROGRESS = Purpose(("READ", "WRITE", "DESCRIBE"), 8, compacted=True, record_bytes=100_500)
ROWS = Purpose(("WRITE", "DESCRIBE"), None, compacted=False, record_bytes=8_192)
CONFIG = {
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
}


def bad(findings: list[Finding]) -> dict[str, Status]:
    """Subject to verdict of what is not in order; each has a cure."""
    assert all(finding.cure for finding in findings if finding.verdict != Status.OK)
    return {finding.subject: finding.verdict for finding in findings if finding.verdict != Status.OK}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (POSTGRESQL, {"database disk": "unknown"}),
        (replace(POSTGRESQL, version=(13, 9)), {"database version": "warning", "database disk": "unknown"}),
        (replace(POSTGRESQL, standby=True), {"database role": "failure", "database disk": "unknown"}),
        (
            replace(POSTGRESQL, settings=DURABLE | {"synchronous_standby_names": ""}),
            {"database durability": "warning", "database disk": "unknown"},
        ),
        (
            replace(POSTGRESQL, settings=DURABLE | {"synchronous_commit": "local"}),
            {"database durability": "warning", "database disk": "unknown"},
        ),
        (SQLITE, {"database durability": "warning"}),
        (replace(SQLITE, version=(3, 37, 2)), {"database version": "failure", "database durability": "warning"}),
        (replace(SQLITE, version=(3, 45, 1)), {"database version": "warning", "database durability": "warning"}),
        (replace(SQLITE, free_bytes=10**6), {"database disk": "failure", "database durability": "warning"}),
        (replace(SQLITE, free_bytes=10**9), {"database disk": "warning", "database durability": "warning"}),
        (replace(SQLITE, clock_ahead_seconds=-9.0), {"clock": "warning", "database durability": "warning"}),
    ],
)
def test_a_database_is_judged_by_what_it_tells(seen: DatabaseInfo, expected: dict[str, str]) -> None:
    """Version, role, durability, disk and clock, each on its own."""
    assert bad(judge_vitals(seen)) == expected


@pytest.mark.parametrize(
    ("revision", "verdict"), [(None, "failure"), ("0001", "failure"), ("0002", "ok"), ("0003", "warning")]
)
def test_a_schema_is_compared_with_the_code(revision: str | None, verdict: str) -> None:
    """Behind the code is a failure, ahead of it a warning."""
    assert judge_revision(revision, "0002").verdict == verdict


@pytest.mark.parametrize(
    ("topic", "purpose", "expected"),
    [
        (TOPIC, PROGRESS, {}),
        (replace(TOPIC, allowed=frozenset()), PROGRESS, {"topic t rights": "unknown"}),
        (replace(TOPIC, allowed=frozenset({"WRITE"})), PROGRESS, {"topic t rights": "failure"}),
        (replace(TOPIC, allowed=frozenset({"WRITE", "DESCRIBE"})), ROWS, {}),
        (replace(TOPIC, partitions=7), PROGRESS, {"topic t partitions": "failure"}),
        (replace(TOPIC, partitions=1), ROWS, {}),
        (replace(TOPIC, leaderless=1), ROWS, {"topic t partitions": "failure"}),
        (TOPIC, replace(PROGRESS, partitions=None), {"topic t partitions": "unknown"}),
        (replace(TOPIC, replicas=1, in_sync=1), ROWS, {"topic t replicas": "warning"}),
        (replace(TOPIC, in_sync=2), ROWS, {"topic t replicas": "warning"}),
    ],
)
def test_a_topic_is_judged_by_rights_partitions_and_replicas(
    topic: Topic, purpose: Purpose, expected: dict[str, str]
) -> None:
    """Each on its own, and only what the topic is for is asked of it."""
    assert bad(judge_topic(topic, purpose, SETTINGS, 3)) == expected


@pytest.mark.parametrize(
    ("change", "topic", "purpose", "expected"),
    [
        ({}, TOPIC, ROWS, {}),
        ({"cleanup.policy": "compact"}, TOPIC, PROGRESS, {}),
        ({}, TOPIC, PROGRESS, {"cleanup.policy": "failure"}),
        ({"cleanup.policy": "compact,delete"}, TOPIC, PROGRESS, {"cleanup.policy": "failure"}),
        ({"cleanup.policy": "compact"}, TOPIC, ROWS, {"cleanup.policy": "warning"}),
        ({"min.insync.replicas": "1"}, TOPIC, ROWS, {"min.insync.replicas": "warning"}),
        ({"min.insync.replicas": "4"}, TOPIC, ROWS, {"min.insync.replicas": "failure"}),
        ({}, replace(TOPIC, in_sync=1), ROWS, {"min.insync.replicas": "failure"}),
        ({"unclean.leader.election.enable": "true"}, TOPIC, ROWS, {"unclean.leader.election.enable": "failure"}),
        ({"max.message.bytes": "500"}, TOPIC, ROWS, {"max.message.bytes": "failure"}),
        ({"max.message.bytes": "100000"}, TOPIC, ROWS, {"max.message.bytes": "warning"}),
        (
            {"max.message.bytes": "100000", "cleanup.policy": "compact"},
            TOPIC,
            PROGRESS,
            {"max.message.bytes": "failure"},
        ),
    ],
)
def test_settings_of_a_topic(change: dict[str, str], topic: Topic, purpose: Purpose, expected: dict[str, str]) -> None:
    """What the promise or the relay rests on is judged by what the topic is for."""
    found = bad(judge_settings("t", purpose, topic, CONFIG | change, "kafka-configs.sh --topic"))
    assert found == {f"topic t {name}": verdict for name, verdict in expected.items()}


def test_settings_that_cannot_be_seen_are_unknown() -> None:
    """A right that is missing hides, it does not fail."""
    error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert bad(judge_settings("t", ROWS, TOPIC, error, "")) == {"topic t settings": "unknown"}
    assert bad([judge_hidden("t", ROWS, error, SETTINGS)]) == {"topic t rights": "failure"}


@pytest.mark.parametrize(
    ("code", "told", "cure"),
    [
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "not rights on __transaction_state", "--transactional-id"),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, "transaction.max.timeout.ms", "transaction.timeout.ms"),
        (KafkaError._TIMED_OUT, "no coordinator", "transaction.state.log.replication.factor"),
    ],
)
def test_errors_of_transactions_are_known_by_name(code: int, told: str, cure: str) -> None:
    """Each with its true cure."""
    found = judge_transactions(SETTINGS, KafkaError(code), None)
    assert found.verdict == Status.FAILURE
    assert told in found.seen + found.cure
    assert cure in found.cure


def test_a_time_out_at_the_commit_is_known_by_name() -> None:
    """The relay's own message tells that nothing is lost, and where to look."""
    assert "transaction.state.log.min.isr" in explain(KafkaError(KafkaError._TIMED_OUT))


@pytest.mark.parametrize("given", ["canary", "canary 7"])
def test_a_value_that_the_client_refuses_is_not_told(given: str) -> None:
    """KAFKA_CONFIG counts as a secret: the property is named, what it was given is not."""
    with pytest.raises(KafkaException) as refused:
        AdminClient({"security.protocol": given})
    told = describe(refused.value.args[0])
    assert ("security.protocol" in told, "canary" in told) == (True, False)


@pytest.mark.parametrize(
    ("error", "subject", "cure"),
    [
        (None, "broker protocol", "KAFKA_SECURITY_PROTOCOL"),
        (KafkaError(KafkaError._AUTHENTICATION), "broker login", "KAFKA_SASL_PASSWORD"),
        (KafkaError(KafkaError._SSL), "broker TLS", "KAFKA_SSL_CA_LOCATION"),
        (
            KafkaError(KafkaError._TRANSPORT, "SSL handshake failed: connecting to a PLAINTEXT broker listener?"),
            "broker protocol",
            "KAFKA_SECURITY_PROTOCOL",
        ),
    ],
)
def test_a_broker_that_cannot_be_talked_to(error: KafkaError | None, subject: str, cure: str) -> None:
    """The client's complaint tells which setting to look at."""
    found = judge_silence(SETTINGS, error)
    assert (found.subject, found.verdict) == (subject, Status.FAILURE)
    assert cure in found.cure


def test_the_complaint_that_says_most_is_told() -> None:
    """Of the login or TLS, whenever it came; else the first that is more than "all brokers are down"."""
    down, transport, login = map(
        KafkaError, (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._AUTHENTICATION)
    )
    complaints = Complaints()
    complaints(down)
    assert complaints.telling() is None
    complaints(transport)
    assert complaints.telling() == transport
    complaints(login)
    assert complaints.telling() == login


def test_brokers_must_be_reached_as_they_advertise_themselves() -> None:
    """The first contact may work where the addresses that clients are sent to do not; plain text is a warning."""
    cluster = Cluster("c", [("one", 9092), ("two", 9092)])
    assert bad(judge_cluster(SETTINGS, cluster, [None, None])) == {"broker TLS": "warning"}
    found = judge_cluster(SETTINGS, cluster, [None, "no connection"])
    assert bad(found) == {"broker TLS": "warning", "brokers": "failure"}
    assert "advertised.listeners" in found[-1].cure


@pytest.mark.parametrize(
    ("server", "advertised", "warned"),
    [
        ("localhost:9092", "127.0.0.1", False),
        ("[::1]:9092", "::1", False),
        ("localhost:9092", "broker.example", True),
        ("localhost.example:9092", "localhost", True),
        ("127.example:9092", "127.0.0.1", True),
    ],
)
def test_plain_text_is_in_order_on_this_machine_alone(server: str, advertised: str, *, warned: bool) -> None:
    """A tunnel's end is here, but the client is sent on to the brokers' own addresses."""
    settings = RelaySettings(kafka_bootstrap_servers=server, schema_registry_url="http://registry.example")
    found = judge_cluster(settings, Cluster("c", [(advertised, 9092)]), [None])
    assert bad(found) == ({"broker TLS": "warning"} if warned else {})


@pytest.mark.parametrize(
    ("status", "subject", "verdict", "cure"),
    [
        (401, "schema registry", "failure", "SCHEMA_REGISTRY_PASSWORD"),
        (403, "schema registry", "failure", "the right to read"),
        (429, "schema registry", "unknown", "rate limit"),
        (409, "schema", "failure", "compatible"),
        (422, "schema", "failure", "compatible"),
        (503, "schema registry", "failure", "recover"),
    ],
)
def test_refusals_of_the_registry_are_known_by_status(status: int, subject: str, verdict: str, cure: str) -> None:
    """Each with its true cure."""
    (found,) = judge_registry_error("registry.example", "t-value", status)
    assert (found.subject, found.verdict) == (subject, verdict)
    assert cure in found.cure


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, "ok"),
        (204, "ok"),
        (405, "ok"),
        (501, "ok"),
        (400, "ok"),
        (401, "failure"),
        (404, "warning"),
        (503, "warning"),
    ],
)
def test_any_answer_shows_that_inference_is_there(status: int, verdict: str) -> None:
    """An endpoint need not know OPTIONS."""
    assert judge_inference("host", status).verdict == verdict


def test_an_outbox_is_used_with_what_it_was_used_with() -> None:
    """A difference is a failure; before the first use there is none."""
    fresh = Identity("id", 8, None, None, None, None)
    used = Identity("id", 8, SETTINGS.kafka_topic, SETTINGS.kafka_progress_topic, "other-", "c")
    assert judge_identity(SETTINGS, fresh, "c").verdict == Status.OK
    assert "KAFKA_TRANSACTIONAL_ID_PREFIX" in judge_identity(SETTINGS, used, "c").seen
    assert "cluster" in judge_identity(SETTINGS, replace(used, transactional_id_prefix="cxone-ml-producer-"), "d").seen


def test_hosts_are_allowed_as_the_relay_allows_them() -> None:
    """Upper and lower case are the same, here as at the start of the relay."""
    given = SETTINGS.model_copy(
        update={"inference_url": "http://127.0.0.1:1/x", "inference_allowed_hosts": "other, A.B"}
    )
    (refused,) = check_inference(given)
    assert "INFERENCE_ALLOWED_HOSTS" in refused.seen
    (allowed,) = check_inference(
        given.model_copy(update={"inference_allowed_hosts": "LOCALHOST", "inference_url": "http://localhost:1/x"})
    )
    assert "does not answer" in allowed.seen


@pytest.mark.parametrize(
    "counted",
    [
        "(after 0ms in state CONNECT)",
        "(after 17ms in state CONNECT, 5 identical error(s) suppressed)",
        "(after 301ms in state AUTH_REQ, 30 identical error(s) suppressed)",
    ],
)
def test_an_outage_is_told_in_the_same_words_each_time(counted: str) -> None:
    """What the client counts meanwhile would make each attempt news, a line in the log for every shard."""
    said = "localhost:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused"
    error = KafkaError(KafkaError._TRANSPORT, f"{said} {counted}")
    assert describe(error) == f"{said} (_TRANSPORT)"
