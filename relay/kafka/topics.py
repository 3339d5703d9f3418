"""The topics of an outbox: created if they are missing and the relay may, otherwise named with the command to do it.

Reading metadata of a topic never creates it: ``kafka_client_config`` forbids that to every client, because a broker
would use its own defaults (one partition, records that expire).
"""

from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from outbox.models import Identity
from relay.errors import MisconfiguredError, UnavailableError
from relay.identity import ensure_same_identity
from relay.kafka.client import REQUEST_TIMEOUT_SECONDS, admin_client, partitions_of, topic_metadata, wait_for
from relay.kafka.errors import PERMANENT_ERRORS, LastError, explain
from relay.kafka.progress_topic import CLEANUP_POLICY, COMPACT, ProgressTopic
from relay.settings import RelaySettings, kafka_client_config

log = structlog.get_logger(__name__)

TOPIC_PARTITIONS = 8
"""Partitions of a topic that the relay creates. A later change breaks the order of records across the change."""
BROKER_DEFAULT = -1


class Topics:
    """The topics of one outbox, checked whenever a shard is taken. Safe to use from several threads.

    Args:
        new_admin: creates an admin client.
    """

    def __init__(
        self,
        settings: RelaySettings,
        new_admin: Callable[[dict[str, Any], LastError], AdminClient] = admin_client,
    ) -> None:
        self._settings = settings
        self._new_admin = new_admin
        self._progress_topic = ProgressTopic(settings)

    def prepare(self, identity: Identity) -> str:
        """Make sure that the topics exist, and that the progress topic is compacted and has enough partitions.

        Without the right to read the progress topic's settings, the relay logs a warning and continues.

        Args:
            identity: identity of the outbox.

        Returns:
            The id of the cluster.

        Raises:
            OutboxMismatchError: the outbox was used with other topics or another cluster; nothing is changed there.
            UnavailableError: the broker does not answer.
            MisconfiguredError: a topic is missing or unsuitable, and the relay may not or should not change that.
        """
        ensure_same_identity(self._settings, identity)
        last_error = LastError()
        admin = self._new_admin(kafka_client_config(self._settings), last_error)
        cluster_id = ""
        for wanted in wanted_topics(self._settings, identity.shards):
            cluster_id, partitions = self._find_or_create(admin, wanted, identity, last_error)
            if partitions and wanted.topic == self._settings.kafka_progress_topic:
                self._progress_topic.prepare(admin, last_error, partitions, identity)
        return cluster_id

    def _find_or_create(
        self, admin: AdminClient, wanted: NewTopic, identity: Identity, last_error: LastError
    ) -> tuple[str, int]:
        """The cluster's id and the topic's number of partitions; 0 if it was created here."""
        cluster_id, partitions = _find(admin, wanted.topic, last_error)
        ensure_same_identity(self._settings, identity, cluster_id)
        if partitions or _create(admin, wanted, self._settings, last_error):
            return cluster_id, partitions
        # Another relay created it meanwhile, or the broker did, for a client that asked for its metadata.
        cluster_id, partitions = _find(admin, wanted.topic, last_error)
        if not partitions:
            raise UnavailableError(f"topic {wanted.topic} is being created or deleted: some brokers do not know it yet")
        return cluster_id, partitions


def cluster_id_of(settings: RelaySettings) -> str:
    """The id of the cluster that the settings name.

    Raises:
        UnavailableError: the broker does not answer.
        MisconfiguredError: the client refuses its settings.
    """
    last_error = LastError()
    admin = admin_client(kafka_client_config(settings), last_error)
    return topic_metadata(admin, settings.kafka_topic, last_error).cluster_id or ""


def wanted_topics(settings: RelaySettings, shards: int) -> list[NewTopic]:
    """The topics as the relay creates them: the usual one, those of replays, and the progress topic."""
    return [
        *(NewTopic(name, TOPIC_PARTITIONS, BROKER_DEFAULT) for name in settings.kafka_topics),
        NewTopic(settings.kafka_progress_topic, shards, BROKER_DEFAULT, config={CLEANUP_POLICY: COMPACT}),
    ]


def creation_command(topic: NewTopic, settings: RelaySettings) -> str:
    """The command that creates a topic."""
    config = "".join(f" --config {name}={value}" for name, value in (topic.config or {}).items())
    return (
        f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --create --topic {topic.topic} "
        f"--partitions {topic.num_partitions}{config}"
    )


def _find(admin: AdminClient, topic: str, last_error: LastError) -> tuple[str, int]:
    """The cluster's id, and the topic's number of partitions: 0 if it is missing."""
    metadata = topic_metadata(admin, topic, last_error)
    return metadata.cluster_id or "", len(partitions_of(metadata, topic))


def _create(admin: AdminClient, topic: NewTopic, settings: RelaySettings, last_error: LastError) -> bool:
    """Create a topic; False: it was created by another client meanwhile."""
    try:
        wait_for(admin.create_topics([topic], operation_timeout=REQUEST_TIMEOUT_SECONDS)[topic.topic])
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        if error.code() in PERMANENT_ERRORS:
            raise MisconfiguredError(
                f"topic {topic.topic} is missing and the relay may not create it: {creation_command(topic, settings)}"
            ) from None
        raise UnavailableError(last_error.add_to(f"topic {topic.topic} cannot be created: {explain(error)}")) from None
    log.info(
        "topic %s created", topic.topic, action="topic_created", topic=topic.topic, partitions=topic.num_partitions
    )
    return True
