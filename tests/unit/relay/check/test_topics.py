"""What ``relay check`` decides about topics; no broker is queried."""

from dataclasses import replace

import pytest
from confluent_kafka import KafkaError

from relay.check.topic import Requirements, Topic
from relay.check.topic_settings import judge_hidden_settings, judge_settings
from relay.check.topics import judge_hidden, judge_topic
from relay.settings import RelaySettings
from testkit.findings import problems

SETTINGS = RelaySettings(kafka_bootstrap_servers="broker.example:9092", schema_registry_url="http://registry.example")
TOPIC = Topic("t", frozenset({"READ", "WRITE", "DESCRIBE"}), 8, 0, 3, 3)
PROGRESS = Requirements(("READ", "WRITE", "DESCRIBE"), 8, compacted=True, record_bytes=100_500)
ROWS = Requirements(("WRITE", "DESCRIBE"), None, compacted=False, record_bytes=8_192)
CONFIG = {
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
}
BEFORE, AFTER = "message.timestamp.before.max.ms", "message.timestamp.after.max.ms"
DENIED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)


@pytest.mark.parametrize(
    ("topic", "required", "expected"),
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
def test_rights_partitions_and_replicas(topic: Topic, required: Requirements, expected: dict[str, str]) -> None:
    """Each is judged separately, by what the topic is required for."""
    assert problems(judge_topic(topic, required, SETTINGS, 3)) == expected


@pytest.mark.parametrize(
    ("change", "topic", "required", "expected"),
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
        ({BEFORE: "9223372036854775807", AFTER: "60000"}, TOPIC, ROWS, {}),
        ({BEFORE: "0", AFTER: "59999"}, TOPIC, ROWS, {BEFORE: "failure", AFTER: "failure"}),
        ({BEFORE: "0", "message.timestamp.type": "LogAppendTime"}, TOPIC, ROWS, {}),
    ],
)
def test_settings(change: dict[str, str], topic: Topic, required: Requirements, expected: dict[str, str]) -> None:
    """Each setting is judged separately, by what the topic is required for."""
    found = problems(judge_settings(topic, required, CONFIG | change, "kafka-configs.sh --alter --add-config"))
    assert found == {f"topic t {name}": status for name, status in expected.items()}


def test_settings_that_may_not_be_read_are_unknown() -> None:
    """The relay does not need to read them, so it is not a failure."""
    assert problems([judge_hidden_settings("t", DENIED)]) == {"topic t settings": "unknown"}


def test_a_topic_that_may_not_be_described_is_a_failure() -> None:
    """The relay needs Describe."""
    assert problems([judge_hidden("t", ROWS, DENIED, SETTINGS)]) == {"topic t rights": "failure"}
