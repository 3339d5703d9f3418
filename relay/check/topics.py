"""The topics: present, with the rights, partitions and replicas that the relay needs."""

from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.check.topic import Requirements, Topic, requirements
from relay.check.topic_settings import check_settings
from relay.check.transactions import SEE_BROKER_LOG, acl_command
from relay.kafka.client import REQUEST_TIMEOUT_SECONDS, wait_for
from relay.kafka.errors import REMEDIES, describe
from relay.kafka.topics import creation_command, wanted_topics
from relay.settings import RelaySettings

RESTART_REPLICAS = "bring back the brokers that hold its replicas"


def check_topics(admin: AdminClient, settings: RelaySettings, shards: int | None, brokers: int) -> list[Finding]:
    """Check every topic that rows may go to, and the progress topic.

    Args:
        admin: a client of the cluster.
        shards: number of shards of the outbox; None: not known.
        brokers: number of brokers in the cluster.
    """
    wanted = {topic.topic: topic for topic in wanted_topics(settings, shards or 1)}
    findings: list[Finding] = []
    for name, required in requirements(settings, shards).items():
        found = _describe(admin, name)
        if isinstance(found, Topic):
            findings += judge_topic(found, required, settings, brokers)
            findings += check_settings(admin, found, required, settings)
        elif found.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            findings.append(_check_creation(admin, wanted[name], settings))
        else:
            findings.append(judge_hidden(name, required, found, settings))
    return findings


def _describe(admin: AdminClient, name: str) -> Topic | KafkaError:
    names = TopicCollection([name])
    futures = admin.describe_topics(names, include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_SECONDS)
    try:
        found = wait_for(futures[name])
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        return error
    partitions = found.partitions
    return Topic(
        name,
        frozenset(operation.name for operation in found.authorized_operations or ()),
        len(partitions),
        sum(each.leader is None or each.leader.id < 0 for each in partitions),
        min((len(each.replicas) for each in partitions), default=0),
        min((len(each.isr) for each in partitions), default=0),
    )


def _check_creation(admin: AdminClient, topic: NewTopic, settings: RelaySettings) -> Finding:
    """Ask the broker whether the relay may create a topic, without creating it."""
    subject, command = f"topic {topic.topic}", creation_command(topic, settings)
    try:
        wait_for(admin.create_topics([topic], validate_only=True, request_timeout=REQUEST_TIMEOUT_SECONDS)[topic.topic])
    except KafkaException as exception:
        detail = f"it is missing, and the relay may not create it: {describe(exception.args[0])}"
        return failure(subject, detail, command)
    return warning(
        subject, "it is missing; the relay may create it, and does when it starts", f"start it, or {command}"
    )


def judge_hidden(name: str, required: Requirements, error: KafkaError, settings: RelaySettings) -> Finding:
    """Decide why the broker does not describe a topic."""
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        detail = f"{describe(error)}: Describe is not granted, or the topic is missing and Create is not granted"
        return failure(f"topic {name} rights", detail, _grant(settings, name, required.operations))
    return unknown(f"topic {name}", describe(error), REMEDIES.get(error.code(), SEE_BROKER_LOG))


def judge_topic(topic: Topic, required: Requirements, settings: RelaySettings, brokers: int) -> list[Finding]:
    """Judge rights, partitions and replicas."""
    return [_rights(topic, required, settings), _partitions(topic, required, settings), _replicas(topic, brokers)]


def _rights(topic: Topic, required: Requirements, settings: RelaySettings) -> Finding:
    subject = f"topic {topic.name} rights"
    if not topic.allowed:
        return unknown(subject, "the broker does not say", "list the ACLs as an administrator")
    missing = [operation for operation in required.operations if operation not in topic.allowed]
    if missing:
        return failure(subject, f"missing: {_names(missing, ', ')}", _grant(settings, topic.name, missing))
    return ok(subject, _names(required.operations, ", "))


def _partitions(topic: Topic, required: Requirements, settings: RelaySettings) -> Finding:
    subject, detail = f"topic {topic.name} partitions", f"{topic.partitions}"
    if topic.leaderless:
        return failure(subject, f"{detail}, {topic.leaderless} of them without a leader", RESTART_REPLICAS)
    if required.compacted and required.partitions is None:
        remedy = "correct the failure of the database first"
        return unknown(subject, f"{detail}; the number of shards is not known", remedy)
    if required.partitions and topic.partitions < required.partitions:
        remedy = (
            f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter --topic {topic.name} "
            f"--partitions {required.partitions}"
        )
        return failure(subject, f"{detail}, but each of {required.partitions} shards needs one", remedy)
    return ok(subject, f"{detail}, each with a leader")


def _replicas(topic: Topic, brokers: int) -> Finding:
    subject = f"topic {topic.name} replicas"
    detail = f"{topic.replicas} of each partition, {topic.in_sync} in sync"
    if topic.replicas < 2:
        first = "" if brokers > 1 else "add brokers, then "
        return warning(subject, f"{detail}: there is only one copy", f"{first}raise the replication factor to 3")
    if topic.in_sync < topic.replicas:
        return warning(subject, detail, "bring back the brokers that hold the other replicas")
    return ok(subject, detail)


def _names(operations: Sequence[str], separator: str) -> str:
    return separator.join(operation.title() for operation in operations)


def _grant(settings: RelaySettings, name: str, operations: Sequence[str]) -> str:
    options = "".join(f" --operation {operation.title()}" for operation in operations)
    return f"grant {_names(operations, ' and ')} on topic {name}: {acl_command(settings)}{options} --topic {name}"
