"""The topics: there, with the rights and the settings that the relay needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, NewTopic

from relay.check.broker import ACLS
from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.kafka.errors import REMEDIES, REQUEST_SECONDS, describe
from relay.kafka.topics import creation_command, wanted_topics
from relay.settings import RelaySettings

LARGEST_RECORD_BYTES = 8_192
"""Above the largest record: the longest texts that the webhook takes are 4 kB in UTF-8, and the body is not sent."""
BATCH_BYTES = 1_000_000
"""What the client sends as one batch, at most."""
PROGRESS_BYTES_A_ROW, PROGRESS_BYTES = 20, 500
"""Of a progress record: id and tag of each row, at most, and the rest."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker tells about it."""

    name: str
    allowed: frozenset[str]
    """Operations that this user may do, as ``WRITE``."""
    partitions: int
    leaderless: int
    """Partitions without a leader."""
    replicas: int
    """Of the partition that has the fewest."""
    in_sync: int
    """Likewise."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What the relay needs of a topic."""

    needed: tuple[str, ...]
    """Operations, as ``WRITE``."""
    partitions: int | None
    """At least so many, where it matters."""
    compacted: bool
    record_bytes: int
    """The largest record."""


def check_topics(admin: AdminClient, settings: RelaySettings, shards: int | None, brokers: int) -> list[Finding]:
    """Every topic that rows may go to, and the progress topic, one after the other.

    Args:
        admin: a client of the broker.
        settings: of the relay.
        shards: of the outbox; None: not known.
        brokers: in the cluster.
    """
    progress_bytes = PROGRESS_BYTES + settings.relay_batch_size * PROGRESS_BYTES_A_ROW
    rows = Purpose(("WRITE", "DESCRIBE"), None, compacted=False, record_bytes=LARGEST_RECORD_BYTES)
    progress = Purpose(("READ", "WRITE", "DESCRIBE"), shards, compacted=True, record_bytes=progress_bytes)
    purposes = {**dict.fromkeys(settings.kafka_topics, rows), settings.kafka_progress_topic: progress}
    new = {topic.topic: topic for topic in wanted_topics(settings, shards or 1)}
    findings: list[Finding] = []
    for name, purpose in purposes.items():
        found = _describe(admin, name)
        if isinstance(found, Topic):
            findings += judge_topic(found, purpose, settings, brokers)
            findings += judge_settings(name, purpose, found, _settings_of(admin, name), _command(settings))
        elif found.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            findings.append(_missing(admin, new[name], settings))
        else:
            findings.append(judge_hidden(name, purpose, found, settings))
    return findings


def _describe(admin: AdminClient, name: str) -> Topic | KafkaError:
    names = TopicCollection([name])
    futures = admin.describe_topics(names, include_authorized_operations=True, request_timeout=REQUEST_SECONDS)
    try:
        found = futures[name].result(REQUEST_SECONDS * 2)
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        return error
    parts = found.partitions
    return Topic(
        name,
        frozenset(operation.name for operation in found.authorized_operations or ()),
        len(parts),
        sum(part.leader is None or part.leader.id < 0 for part in parts),
        min((len(part.replicas) for part in parts), default=0),
        min((len(part.isr) for part in parts), default=0),
    )


def _settings_of(admin: AdminClient, name: str) -> Mapping[str, str] | KafkaError:
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    try:
        (future,) = admin.describe_configs([resource], request_timeout=REQUEST_SECONDS).values()
        return {key: str(entry.value) for key, entry in future.result(REQUEST_SECONDS * 2).items()}
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        return error


def _missing(admin: AdminClient, new: NewTopic, settings: RelaySettings) -> Finding:
    """A topic that is not there: may the relay create it? Only asked, not done."""
    try:
        admin.create_topics([new], validate_only=True, request_timeout=REQUEST_SECONDS)[new.topic].result(
            REQUEST_SECONDS * 2
        )
    except KafkaException as exception:
        seen = f"it is missing, and cannot be created: {describe(exception.args[0])}"
        return failure(f"topic {new.topic}", seen, creation_command(new, settings))
    seen = "it is missing; the relay may create it, and does so at its start"
    return warning(f"topic {new.topic}", seen, f"start the relay, or {creation_command(new, settings)}")


def judge_hidden(name: str, purpose: Purpose, error: KafkaError, settings: RelaySettings) -> Finding:
    """A topic that the broker tells nothing about."""
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        seen = f"{describe(error)}: not even Describe is granted, or it is missing and Create is not"
        return failure(f"topic {name} rights", seen, _grant(settings, name, purpose.needed))
    return unknown(f"topic {name}", describe(error), REMEDIES.get(error.code(), "see the broker's log"))


def judge_topic(topic: Topic, purpose: Purpose, settings: RelaySettings, brokers: int) -> list[Finding]:
    """Rights, partitions and replicas."""
    return [_rights(topic, purpose, settings), _partitions(topic, purpose, settings), _replicas(topic, brokers)]


def _rights(topic: Topic, purpose: Purpose, settings: RelaySettings) -> Finding:
    subject = f"topic {topic.name} rights"
    if not topic.allowed:
        return unknown(subject, "the broker does not tell", "see the ACLs as an administrator")
    missing = [operation for operation in purpose.needed if operation not in topic.allowed]
    if missing:
        seen = f"missing: {', '.join(operation.title() for operation in missing)}"
        return failure(subject, seen, _grant(settings, topic.name, missing))
    return ok(subject, ", ".join(operation.title() for operation in purpose.needed))


def _partitions(topic: Topic, purpose: Purpose, settings: RelaySettings) -> Finding:
    subject, seen = f"topic {topic.name} partitions", f"{topic.partitions}"
    if topic.leaderless:
        cure = "bring the brokers back that hold their replicas"
        return failure(subject, f"{seen}, {topic.leaderless} of them without a leader", cure)
    if purpose.compacted and purpose.partitions is None:
        return unknown(subject, f"{seen}; the number of shards is not known", "follow the database's line first")
    if purpose.partitions and topic.partitions < purpose.partitions:
        cure = (
            f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter --topic {topic.name} "
            f"--partitions {purpose.partitions}"
        )
        return failure(subject, f"{seen}, and one for each of {purpose.partitions} shards is needed", cure)
    return ok(subject, f"{seen}, each with a leader")


def _replicas(topic: Topic, brokers: int) -> Finding:
    subject = f"topic {topic.name} replicas"
    seen = f"{topic.replicas} of each partition, {topic.in_sync} in sync"
    if topic.replicas < 2:
        more = "" if brokers > 1 else "add brokers, then "
        return warning(subject, f"{seen}: a broker's disk is the only copy", f"{more}raise the replication to 3")
    if topic.in_sync < topic.replicas:
        return warning(subject, seen, "bring the brokers back that hold the others")
    return ok(subject, seen)


def judge_settings(
    name: str, purpose: Purpose, topic: Topic, settings: Mapping[str, str] | KafkaError, command: str
) -> list[Finding]:
    """The topic's settings, as far as the promise or the relay rests on them.

    Args:
        name: of the topic.
        purpose: what it is for.
        topic: what else is known of it.
        settings: of the topic, or why they cannot be seen.
        command: that changes a topic's settings, up to the topic's name.
    """
    if isinstance(settings, KafkaError):
        cure = "grant DescribeConfigs on the topic (the relay needs it for this check alone)"
        return [unknown(f"topic {name} settings", describe(settings), cure)]
    alter = f"{command} {name} --alter --add-config"
    return [
        _min_in_sync(name, topic, int(settings["min.insync.replicas"]), alter),
        _unclean(name, settings["unclean.leader.election.enable"] == "true", alter),
        _policy(name, purpose, settings["cleanup.policy"], alter),
        _record_size(name, purpose, int(settings["max.message.bytes"]), alter),
    ]


def _min_in_sync(name: str, topic: Topic, least: int, alter: str) -> Finding:
    subject, seen = f"topic {name} min.insync.replicas", str(least)
    if least > topic.replicas:
        cure = f"{alter} min.insync.replicas={max(1, topic.replicas - 1)}"
        return failure(subject, f"{seen}, but there are only {topic.replicas} replicas: nothing can be written", cure)
    if topic.in_sync < least:
        cure = "bring the brokers back that hold its replicas"
        return failure(subject, f"{seen}, but only {topic.in_sync} are in sync: nothing can be written", cure)
    if least < 2:
        first = "" if topic.replicas > 2 else "raise the replication to 3, then "
        seen = f"{seen}: what is acknowledged may be on one broker alone"
        return warning(subject, seen, f"{first}{alter} min.insync.replicas=2")
    return ok(subject, seen)


def _unclean(name: str, enabled: bool, alter: str) -> Finding:  # noqa: FBT001
    subject = f"topic {name} unclean.leader.election.enable"
    if enabled:
        cure = f"{alter} unclean.leader.election.enable=false"
        return failure(subject, "true: a replica that lags may lead, and what was acknowledged is lost", cure)
    return ok(subject, "false")


def _policy(name: str, purpose: Purpose, policy: str, alter: str) -> Finding:
    subject = f"topic {name} cleanup.policy"
    if purpose.compacted and policy != "compact":
        cure = f"{alter} cleanup.policy=compact"
        return failure(subject, f"{policy}: a progress record that expires cannot be read back", cure)
    if not purpose.compacted and "compact" in policy:
        cure = f"{alter} cleanup.policy=delete"
        return warning(subject, f"{policy}: only the last record of an interaction is kept", cure)
    return ok(subject, policy)


def _record_size(name: str, purpose: Purpose, limit: int, alter: str) -> Finding:
    subject, seen = f"topic {name} max.message.bytes", f"{limit}"
    cure = f"{alter} max.message.bytes=1048588"
    if limit < purpose.record_bytes:
        what = "a progress record" if purpose.compacted else "a record (the webhook's body is not part of it)"
        lower = ", or lower RELAY_BATCH_SIZE" if purpose.compacted else ""
        return failure(subject, f"{seen}, and {what} may take {purpose.record_bytes}", cure + lower)
    if not purpose.compacted and limit < BATCH_BYTES:
        return warning(subject, f"{seen}: full batches of {BATCH_BYTES} are refused first, then split, slowly", cure)
    return ok(subject, seen)


def _grant(settings: RelaySettings, name: str, operations: Sequence[str]) -> str:
    user = settings.kafka_sasl_username or "…"
    wanted = "".join(f" --operation {AclOperation[operation].name.title()}" for operation in operations)
    command = ACLS.format(servers=settings.kafka_bootstrap_servers, user=user)
    return f"grant {' and '.join(o.title() for o in operations)} on topic {name}: {command}{wanted} --topic {name}"


def _command(settings: RelaySettings) -> str:
    return f"kafka-configs.sh --bootstrap-server {settings.kafka_bootstrap_servers} --topic"
