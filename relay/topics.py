"""The topics: created if they are missing and we may, otherwise named with the command to create them."""

from concurrent.futures import Future

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from relay.errors import MisconfiguredError, UnavailableError
from relay.kafka import ErrorMemory, explain, translated
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

TOPIC_PARTITIONS = 8
"""Where we create the topic; changing the number later breaks order across the change."""
REQUEST_SECONDS = 10.0
BROKER_DEFAULT = -1

_REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


def prepare_topics(admin: AdminClient, settings: RelaySettings, shards: int, memory: ErrorMemory) -> str:
    """See that the topics are there and fit; return the cluster's id.

    Raises:
        UnavailableError: the broker does not answer.
        MisconfiguredError: a topic is missing and may not be created, or has too few partitions.
    """
    cluster_id = ""
    for new in wanted_topics(settings, shards):
        topic = new.topic
        cluster_id, partitions = _look(admin, topic, memory)
        if not partitions:
            _create(admin, new, settings, memory)
        elif topic == settings.kafka_progress_topic and partitions < shards:
            raise MisconfiguredError(_too_few(settings, shards))
    return cluster_id


def grow_progress_topic(admin: AdminClient, settings: RelaySettings, shards: int) -> int:
    """See that the progress topic has a partition for each of so many shards; how many it had before.

    Raises:
        UnavailableError: the broker does not answer.
        MisconfiguredError: it has too few and the relay may not add any.
    """
    topic, memory = settings.kafka_progress_topic, ErrorMemory()
    _, before = _look(admin, topic, memory)
    if before >= shards:
        return before
    future = admin.create_partitions([NewPartitions(topic, shards)], operation_timeout=REQUEST_SECONDS)[topic]
    try:
        future.result(REQUEST_SECONDS * 2)
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        if error.code() in _REFUSED:
            raise MisconfiguredError(_too_few(settings, shards)) from None
        raise UnavailableError(memory.told(f"topic {topic} cannot be grown: {explain(error)}")) from None
    log.info("topic %s has %d partitions now", topic, shards, action="topic_grown", topic=topic, partitions=shards)
    return before


def _too_few(settings: RelaySettings, shards: int) -> str:
    topic = settings.kafka_progress_topic
    return (
        f"topic {topic} has too few partitions, one for each of {shards} shards is needed: "
        f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter --topic {topic} "
        f"--partitions {shards}"
    )


def wanted_topics(settings: RelaySettings, shards: int) -> list[NewTopic]:
    """The topics as they are where we create them: the usual one, those of replays, and the progress topic."""
    compacted = {"cleanup.policy": "compact"}
    return [
        *(NewTopic(name, TOPIC_PARTITIONS, BROKER_DEFAULT) for name in settings.kafka_topics),
        NewTopic(settings.kafka_progress_topic, shards, BROKER_DEFAULT, config=compacted),
    ]


def _look(admin: AdminClient, topic: str, memory: ErrorMemory) -> tuple[str, int]:
    """The cluster's id, and the topic's number of partitions: 0 if it is missing."""
    admin.poll(0)  # serves error_cb: why the last attempt failed
    with translated("tell about its topics", memory, UnavailableError):
        metadata = admin.list_topics(topic, timeout=REQUEST_SECONDS)
        found = metadata.topics[topic]
        if found.error is None:
            return metadata.cluster_id or "", len(found.partitions)
        if found.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001
            return metadata.cluster_id or "", 0
        raise UnavailableError(f"topic {topic}: {explain(found.error)}")


def _create(admin: AdminClient, new: NewTopic, settings: RelaySettings, memory: ErrorMemory) -> None:
    future: Future[None] = admin.create_topics([new], operation_timeout=REQUEST_SECONDS)[new.topic]
    try:
        future.result(REQUEST_SECONDS * 2)
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:  # another relay was faster
            return
        if error.code() in _REFUSED:
            raise MisconfiguredError(
                f"topic {new.topic} is missing and the relay may not create it: {creation_command(new, settings)}"
            ) from None
        raise UnavailableError(memory.told(f"topic {new.topic} cannot be created: {explain(error)}")) from None
    log.info("topic %s created", new.topic, action="topic_created", topic=new.topic, partitions=new.num_partitions)


def creation_command(new: NewTopic, settings: RelaySettings) -> str:
    """The command that creates a topic."""
    config = "".join(f" --config {name}={value}" for name, value in (new.config or {}).items())
    return (
        f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} --create --topic {new.topic} "
        f"--partitions {new.num_partitions}{config}"
    )
