"""The topics' settings: those that the delivery guarantee or the relay depends on."""

from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.check.topic import Requirements, Topic
from relay.kafka.client import topic_settings
from relay.kafka.errors import describe
from relay.settings import RelaySettings

TIMESTAMP_LIMITS = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms")
MIN_TIMESTAMP_LIMIT_MS, HOUR_MS = 60_000, 3_600_000
"""A record may wait in the client as long as its transaction lasts, a minute."""
CLIENT_BATCH_BYTES = 1_000_000
"""Largest batch that the client sends."""
MAX_MESSAGE_BYTES = 1_048_588
"""The broker's own default of ``max.message.bytes``."""


def check_settings(admin: AdminClient, topic: Topic, required: Requirements, settings: RelaySettings) -> list[Finding]:
    """Check the settings of a topic."""
    servers = settings.kafka_bootstrap_servers
    alter = f"kafka-configs.sh --bootstrap-server {servers} --topic {topic.name} --alter --add-config"
    try:
        return judge_settings(topic, required, topic_settings(admin, topic.name), alter)
    except KafkaException as exception:
        return [judge_hidden_settings(topic.name, exception.args[0])]


def judge_hidden_settings(name: str, error: KafkaError) -> Finding:
    """The relay may not read the settings."""
    remedy = "grant DescribeConfigs on the topic (only this check needs it)"
    return unknown(f"topic {name} settings", describe(error), remedy)


def judge_settings(topic: Topic, required: Requirements, settings: Mapping[str, str], alter: str) -> list[Finding]:
    """Judge each setting.

    Args:
        topic: the topic.
        required: what the relay requires of it.
        settings: the topic's settings.
        alter: the command that changes a setting, up to the setting.
    """
    return [
        _min_in_sync(topic, int(settings["min.insync.replicas"]), alter),
        _unclean_election(topic.name, settings["unclean.leader.election.enable"], alter),
        _cleanup_policy(topic.name, required, settings["cleanup.policy"], alter),
        _max_message_bytes(topic.name, required, int(settings["max.message.bytes"]), alter),
        *_timestamp_limits(topic.name, settings, alter),
    ]


def _min_in_sync(topic: Topic, minimum: int, alter: str) -> Finding:
    subject, detail = f"topic {topic.name} min.insync.replicas", str(minimum)
    if minimum > topic.replicas:
        remedy = f"{alter} min.insync.replicas={max(1, topic.replicas - 1)}"
        return failure(subject, f"{detail}, but there are only {topic.replicas} replicas: all writes fail", remedy)
    if topic.in_sync < minimum:
        remedy = "bring back the brokers that hold its replicas"
        return failure(subject, f"{detail}, but only {topic.in_sync} are in sync: all writes fail", remedy)
    if minimum < 2:
        first = "" if topic.replicas > 2 else "raise the replication factor to 3, then "
        detail = f"{detail}: an acknowledged record may be on one broker only"
        return warning(subject, detail, f"{first}{alter} min.insync.replicas=2")
    return ok(subject, detail)


def _unclean_election(name: str, enabled: str, alter: str) -> Finding:
    subject = f"topic {name} unclean.leader.election.enable"
    if enabled == "true":
        remedy = f"{alter} unclean.leader.election.enable=false"
        return failure(subject, "true: a lagging replica may become leader and lose acknowledged records", remedy)
    return ok(subject, enabled)


def _cleanup_policy(name: str, required: Requirements, policy: str, alter: str) -> Finding:
    subject = f"topic {name} cleanup.policy"
    if required.compacted and policy != "compact":
        return failure(subject, f"{policy}: progress records expire", f"{alter} cleanup.policy=compact")
    if not required.compacted and "compact" in policy:
        detail = f"{policy}: only the last record of each interaction is kept"
        return warning(subject, detail, f"{alter} cleanup.policy=delete")
    return ok(subject, policy)


def _max_message_bytes(name: str, required: Requirements, limit: int, alter: str) -> Finding:
    subject, detail = f"topic {name} max.message.bytes", f"{limit}"
    remedy = f"{alter} max.message.bytes={MAX_MESSAGE_BYTES}"
    if limit < required.record_bytes and required.compacted:
        detail = f"{detail}, but a progress record may take {required.record_bytes}"
        return failure(subject, detail, f"{remedy}, or lower RELAY_BATCH_SIZE")
    if limit < required.record_bytes:
        detail = f"{detail}, but a record may take {required.record_bytes} (the webhook's body is not part of it)"
        return failure(subject, detail, remedy)
    if not required.compacted and limit < CLIENT_BATCH_BYTES:
        detail = f"{detail}: the broker refuses full batches of {CLIENT_BATCH_BYTES}, which are then split, slowly"
        return warning(subject, detail, remedy)
    return ok(subject, detail)


def _timestamp_limits(name: str, settings: Mapping[str, str], alter: str) -> list[Finding]:
    """Judge how far a record's time may be from the broker's; before Kafka 3.6 there was one limit for both."""
    if settings.get("message.timestamp.type") == "LogAppendTime":
        return []
    found = {limit: int(settings[limit]) for limit in TIMESTAMP_LIMITS if limit in settings}
    return [
        failure(
            f"topic {name} {limit}",
            f"{value}: the broker refuses records that wait longer until they are sent, or whose host's clock differs "
            "by more; with a few milliseconds it cannot end transactions either",
            f"{alter} {limit}={HOUR_MS}",
        )
        for limit, value in found.items()
        if value < MIN_TIMESTAMP_LIMIT_MS
    ]
