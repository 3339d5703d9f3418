"""The progress topic must be compacted, and have one partition for each shard; the relay changes it accordingly."""

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    OffsetSpec,
)

from outbox.models import Identity
from relay.errors import MisconfiguredError, UnavailableError
from relay.kafka.client import (
    REQUEST_TIMEOUT_SECONDS,
    offset_ranges,
    partitions_of,
    topic_metadata,
    topic_settings,
    wait_for,
)
from relay.kafka.errors import PERMANENT_ERRORS, LastError, describe, explain
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

CLEANUP_POLICY, COMPACT = "cleanup.policy", "compact"


class ProgressTopic:
    """The progress topic of one outbox."""

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self._topic = settings.kafka_progress_topic
        self._reported_hidden = False

    def prepare(self, admin: AdminClient, last_error: LastError, partitions: int, identity: Identity) -> None:
        """Add the partitions that are missing, and compact the topic.

        Args:
            admin: a client of the cluster.
            last_error: the client's last error.
            partitions: number of partitions that the topic has.
            identity: identity of the outbox.

        Raises:
            UnavailableError: the broker does not answer.
            MisconfiguredError: the topic is unsuitable, and the relay may not or should not change it.
        """
        used = identity.progress_topic is not None
        if partitions < identity.shards:
            if not used:
                self._require_empty(admin, partitions, _too_few_partitions(self._settings, identity.shards))
            grow_progress_topic(admin, self._settings, identity.shards)
        policy = self._cleanup_policy(admin, last_error)
        if policy is not None and policy != COMPACT:
            remedy = self._expires(policy)
            if not used:
                self._require_empty(admin, partitions, remedy)
            self._compact(admin, last_error, remedy)
            log.warning(
                "topic %s had %s=%s and is now compacted", self._topic, CLEANUP_POLICY, policy,
                action="topic_compacted", topic=self._topic, before=policy,
            )  # fmt: skip

    def _expires(self, policy: str) -> str:
        return (
            f"topic {self._topic} has {CLEANUP_POLICY}={policy}, so that progress records expire: kafka-configs.sh "
            f"--bootstrap-server {self._settings.kafka_bootstrap_servers} --topic {self._topic} "
            f"--alter --add-config {CLEANUP_POLICY}={COMPACT}"
        )

    def _compact(self, admin: AdminClient, last_error: LastError, remedy: str) -> None:
        entry = ConfigEntry(CLEANUP_POLICY, COMPACT, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, self._topic, incremental_configs=[entry])
        (future,) = admin.incremental_alter_configs([resource], request_timeout=REQUEST_TIMEOUT_SECONDS).values()
        try:
            wait_for(future)
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            if error.code() in PERMANENT_ERRORS:
                raise MisconfiguredError(f"{remedy} ({describe(error)})") from None
            reason = last_error.add_to(f"topic {self._topic} cannot be altered: {explain(error)}")
            raise UnavailableError(reason) from None

    def _cleanup_policy(self, admin: AdminClient, last_error: LastError) -> str | None:
        """None: the relay may not read it."""
        metadata = topic_metadata(admin, self._topic, last_error)
        if metadata.controller_id not in metadata.brokers:
            self._report_hidden("the cluster has no controller")
            return None
        try:
            return topic_settings(admin, self._topic)[CLEANUP_POLICY].replace(" ", "")
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            if error.code() in PERMANENT_ERRORS:
                self._report_hidden(describe(error))
                return None
            reason = last_error.add_to(f"the settings of topic {self._topic} cannot be read: {explain(error)}")
            raise UnavailableError(reason) from None

    def _report_hidden(self, reason: str) -> None:
        if not self._reported_hidden:
            self._reported_hidden = True
            log.warning(
                "the settings of topic %s cannot be read (%s): grant DescribeConfigs on it, or make sure that it has "
                "%s=%s", self._topic, reason, CLEANUP_POLICY, COMPACT,
                action="topic_settings_hidden", topic=self._topic,
            )  # fmt: skip

    def _require_empty(self, admin: AdminClient, partitions: int, remedy: str) -> None:
        """Refuse to change a topic that this outbox has never used and that holds records: it may be someone else's."""
        numbers = [TopicPartition(self._topic, number) for number in range(partitions)]
        ranges = offset_ranges(admin, numbers, OffsetSpec.earliest())
        if any(first < end for first, end in ranges.values()):
            raise MisconfiguredError(
                f"{remedy} (the topic holds records, and this outbox has never used it, so the relay does not change "
                "it: check that KAFKA_PROGRESS_TOPIC names the right topic)"
            )


def grow_progress_topic(admin: AdminClient, settings: RelaySettings, shards: int) -> int:
    """Add partitions to the progress topic until it has one for each shard; the number that it had before.

    Raises:
        UnavailableError: the broker does not answer.
        MisconfiguredError: it has too few, and the relay may not add any.
    """
    topic, last_error = settings.kafka_progress_topic, LastError()
    before = len(partitions_of(topic_metadata(admin, topic, last_error), topic))
    if before >= shards:
        return before
    future = admin.create_partitions([NewPartitions(topic, shards)], operation_timeout=REQUEST_TIMEOUT_SECONDS)[topic]
    try:
        wait_for(future)
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        if error.code() in PERMANENT_ERRORS:
            raise MisconfiguredError(_too_few_partitions(settings, shards)) from None
        if error.code() != KafkaError.INVALID_PARTITIONS:  # otherwise another relay added them
            reason = last_error.add_to(f"topic {topic} cannot be given more partitions: {explain(error)}")
            raise UnavailableError(reason) from None
    log.info("topic %s now has %d partitions", topic, shards, action="topic_grown", topic=topic, partitions=shards)
    return before


def _too_few_partitions(settings: RelaySettings, shards: int) -> str:
    topic = settings.kafka_progress_topic
    return (
        f"topic {topic} has too few partitions, it needs one for each of {shards} shards: "
        f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter --topic {topic} "
        f"--partitions {shards}"
    )
