"""The topics: created if they are missing and we may, otherwise named with the command to create them.

Looking at a topic never creates it: ``kafka_client_config`` forbids that to every client, because a broker
creates what it is asked about with its own defaults (one partition, records that expire).
"""

from concurrent.futures import Future

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from outbox.models import Identity
from relay.errors import MisconfiguredError, UnavailableError
from relay.identity import ensure_same_identity
from relay.kafka.errors import REQUEST_SECONDS, LastError, admin_client, describe, explain, translate_errors
from relay.kafka.progress import bounds
from relay.settings import RelaySettings, kafka_client_config

log = structlog.get_logger(__name__)

TOPIC_PARTITIONS = 8
"""Where we create the topic; changing the number later breaks order across the change."""
BROKER_DEFAULT = -1
CLEANUP_POLICY, COMPACT = "cleanup.policy", "compact"

_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})  # noqa: SLF001
_UNAUTHORIZED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
_REFUSED = _UNAUTHORIZED | {
    KafkaError.POLICY_VIOLATION,
    KafkaError.INVALID_CONFIG,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001
}
"""Answers that stay the same until an administrator does something."""


class Topics:
    """The topics of one outbox, seen to whenever a shard is taken. Safe to use from the threads of many shards.

    Args:
        settings: of the relay.
    """

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self._reported_hidden = False

    def prepare(self, identity: Identity) -> str:
        """See that the topics are there, with partitions enough, the progress topic compacted; the cluster's id.

        Without the right to see the progress topic's settings a warning names it, and the relay works all the same.

        Args:
            identity: of the outbox.

        Raises:
            OutboxMismatchError: the outbox was used with other topics or another cluster; nothing is changed there.
            UnavailableError: the broker does not answer.
            MisconfiguredError: a topic is missing or not as it has to be, and the relay may not or should not
                change that.
        """
        ensure_same_identity(self._settings, identity)
        used = identity.progress_topic is not None
        memory = LastError()
        admin = admin_client(kafka_client_config(self._settings), memory)
        cluster_id = ""
        for new in wanted_topics(self._settings, identity.shards):
            cluster_id, partitions = _look(admin, new.topic, memory)
            ensure_same_identity(self._settings, identity, cluster_id)
            if not partitions and not _create(admin, new, self._settings, memory):
                # Another relay was faster, or the broker made it for somebody who asked about it.
                cluster_id, partitions = _look(admin, new.topic, memory)
                if not partitions:
                    raise UnavailableError(f"topic {new.topic} is being created or deleted: not every broker knows it")
            if partitions and new.topic == self._settings.kafka_progress_topic:
                self._grow(admin, partitions, identity.shards, used=used)
                self._compact(admin, partitions, memory, used=used)
        return cluster_id

    def _grow(self, admin: AdminClient, partitions: int, shards: int, *, used: bool) -> None:
        if partitions < shards:
            self._refuse_foreign(admin, partitions, _too_few(self._settings, shards), used=used)
            grow_progress_topic(admin, self._settings, shards)

    def _compact(self, admin: AdminClient, partitions: int, memory: LastError, *, used: bool) -> None:
        """Compacted and nothing else: a record that expires cannot be read back."""
        topic = self._settings.kafka_progress_topic
        policy = self._cleanup_policy(admin, memory)
        if policy in (None, COMPACT):
            return
        command = (
            f"kafka-configs.sh --bootstrap-server {self._settings.kafka_bootstrap_servers} --topic {topic} "
            f"--alter --add-config {CLEANUP_POLICY}={COMPACT}"
        )
        cure = f"topic {topic} has {CLEANUP_POLICY}={policy}, so that progress records expire: {command}"
        self._refuse_foreign(admin, partitions, cure, used=used)
        entry = ConfigEntry(CLEANUP_POLICY, COMPACT, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        (future,) = admin.incremental_alter_configs([resource], request_timeout=REQUEST_SECONDS).values()
        if error := _error_of(future):
            if error.code() in _REFUSED:
                raise MisconfiguredError(f"{cure} ({describe(error)})")
            raise UnavailableError(memory.told(f"topic {topic} cannot be altered: {explain(error)}"))
        log.warning(
            "topic %s had %s=%s and is compacted now", topic, CLEANUP_POLICY, policy,
            action="topic_compacted", topic=topic, before=policy,
        )  # fmt: skip

    def _cleanup_policy(self, admin: AdminClient, memory: LastError) -> str | None:
        """None: the broker does not show it to us."""
        topic = self._settings.kafka_progress_topic
        metadata = _metadata(admin, topic, memory)
        if metadata.controller_id not in metadata.brokers:
            return self._report_hidden("the cluster has no controller")
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        (future,) = admin.describe_configs([resource], request_timeout=REQUEST_SECONDS).values()
        error = _error_of(future)
        if error is None:
            return str(future.result()[CLEANUP_POLICY].value).replace(" ", "")
        if error.code() in _REFUSED:
            return self._report_hidden(describe(error))
        raise UnavailableError(memory.told(f"the settings of topic {topic} cannot be read: {explain(error)}"))

    def _report_hidden(self, reason: str) -> str | None:
        topic = self._settings.kafka_progress_topic
        if not self._reported_hidden:
            self._reported_hidden = True
            log.warning(
                "the settings of topic %s cannot be seen (%s): grant DescribeConfigs on it, or see to it that it has "
                "%s=%s", topic, reason, CLEANUP_POLICY, COMPACT, action="topic_settings_hidden", topic=topic,
            )  # fmt: skip
        return None

    def _refuse_foreign(self, admin: AdminClient, partitions: int, cure: str, *, used: bool) -> None:
        """Change no topic that holds records and was never ours: the setting may name somebody else's."""
        if used:
            return
        places = [TopicPartition(self._settings.kafka_progress_topic, number) for number in range(partitions)]
        if any(low < end for low, end in bounds(admin, places, OffsetSpec.earliest()).values()):
            raise MisconfiguredError(
                f"{cure} (it holds records, and this outbox was never used with it, so the relay leaves it as it is: "
                "see that KAFKA_PROGRESS_TOPIC names the right topic)"
            )


def grow_progress_topic(admin: AdminClient, settings: RelaySettings, shards: int) -> int:
    """See that the progress topic has a partition for each of so many shards; how many it had before.

    Raises:
        UnavailableError: the broker does not answer.
        MisconfiguredError: it has too few and the relay may not add any.
    """
    topic, memory = settings.kafka_progress_topic, LastError()
    _, before = _look(admin, topic, memory)
    if before >= shards:
        return before
    future = admin.create_partitions([NewPartitions(topic, shards)], operation_timeout=REQUEST_SECONDS)[topic]
    if error := _error_of(future):
        if error.code() in _REFUSED:
            raise MisconfiguredError(_too_few(settings, shards))
        if error.code() != KafkaError.INVALID_PARTITIONS:  # another relay was faster
            raise UnavailableError(memory.told(f"topic {topic} cannot be grown: {explain(error)}"))
    log.info("topic %s has %d partitions now", topic, shards, action="topic_grown", topic=topic, partitions=shards)
    return before


def cluster_of(settings: RelaySettings) -> str:
    """The id of the cluster behind the settings.

    Raises:
        UnavailableError: the broker does not answer.
        MisconfiguredError: the client refuses its settings.
    """
    memory = LastError()
    admin = admin_client(kafka_client_config(settings), memory)
    return _metadata(admin, settings.kafka_topic, memory).cluster_id or ""


def wanted_topics(settings: RelaySettings, shards: int) -> list[NewTopic]:
    """The topics as they are where we create them: the usual one, those of replays, and the progress topic."""
    return [
        *(NewTopic(name, TOPIC_PARTITIONS, BROKER_DEFAULT) for name in settings.kafka_topics),
        NewTopic(settings.kafka_progress_topic, shards, BROKER_DEFAULT, config={CLEANUP_POLICY: COMPACT}),
    ]


def creation_command(new: NewTopic, settings: RelaySettings) -> str:
    """The command that creates a topic."""
    config = "".join(f" --config {name}={value}" for name, value in (new.config or {}).items())
    return (
        f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --create --topic {new.topic} "
        f"--partitions {new.num_partitions}{config}"
    )


def _too_few(settings: RelaySettings, shards: int) -> str:
    topic = settings.kafka_progress_topic
    return (
        f"topic {topic} has too few partitions, one for each of {shards} shards is needed: "
        f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter --topic {topic} "
        f"--partitions {shards}"
    )


def _look(admin: AdminClient, topic: str, memory: LastError) -> tuple[str, int]:
    """The cluster's id, and the topic's number of partitions: 0 if it is missing."""
    metadata = _metadata(admin, topic, memory)
    found = metadata.topics[topic]
    if found.error is None:
        return metadata.cluster_id or "", len(found.partitions)
    if found.error.code() in _MISSING:
        return metadata.cluster_id or "", 0
    raise UnavailableError(f"topic {topic}: {explain(found.error)}")


def _metadata(admin: AdminClient, topic: str, memory: LastError) -> ClusterMetadata:
    with translate_errors("describe its topics", memory, UnavailableError):
        try:
            return admin.list_topics(topic, timeout=REQUEST_SECONDS)
        finally:
            admin.poll(0)  # serves error_cb: why it failed


def _create(admin: AdminClient, new: NewTopic, settings: RelaySettings, memory: LastError) -> bool:
    """Whether it was created here, not by somebody else a moment before."""
    error = _error_of(admin.create_topics([new], operation_timeout=REQUEST_SECONDS)[new.topic])
    if error is None:
        log.info("topic %s created", new.topic, action="topic_created", topic=new.topic, partitions=new.num_partitions)
        return True
    if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
        return False
    if error.code() in _REFUSED:
        raise MisconfiguredError(
            f"topic {new.topic} is missing and the relay may not create it: {creation_command(new, settings)}"
        )
    raise UnavailableError(memory.told(f"topic {new.topic} cannot be created: {explain(error)}"))


def _error_of(future: "Future[object]") -> KafkaError | None:
    """Wait for an answer; what is wrong with it, or None."""
    try:
        future.result(REQUEST_SECONDS * 2)
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        return error
    except TimeoutError:
        return KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001
    return None
