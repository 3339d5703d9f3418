"""The admin client, and the requests that more than one module makes with it."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import OFFSET_INVALID, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, OffsetSpec

from relay.errors import MisconfiguredError, UnavailableError
from relay.kafka.errors import PERMANENT_ERRORS, LastError, explain, translate_errors

__all__ = ["AdminClient"]

T = TypeVar("T")

LIBRDKAFKA_LOG = logging.getLogger("relay.librdkafka")
# Without a logging configuration, as on the command line, errors are reported through LastError instead.
LIBRDKAFKA_LOG.addHandler(logging.NullHandler())

REQUEST_TIMEOUT_SECONDS = 10.0
"""How long a broker may take to answer one request."""
REFUSED_TIMEOUT_SECONDS = 2.0
"""How long another broker may take to answer when one has refused the client."""
MISSING_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})


class OffsetRange(NamedTuple):
    """Offsets of a partition, from ``start`` up to but not including ``end``."""

    start: int
    end: int


def admin_client(config: dict[str, Any], last_error: LastError) -> AdminClient:
    """Create an admin client. Use it briefly and drop it, so that the next one reads certificates and keys again.

    Raises:
        MisconfiguredError: the client refuses its settings, or cannot read a file that they name.
    """
    with translate_errors("create an admin client", last_error, MisconfiguredError):
        complete: dict[str, Any] = {**config, "error_cb": last_error}
        return AdminClient(complete, logger=LIBRDKAFKA_LOG)


def wait_for(future: "Future[T]") -> T:
    """The answer to an admin request.

    Raises:
        KafkaException: the broker refuses the request, or does not answer in time.
    """
    try:
        return future.result(REQUEST_TIMEOUT_SECONDS * 2)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None


def topic_metadata(admin: AdminClient, topic: str, last_error: LastError) -> ClusterMetadata:
    """The cluster and one of its topics.

    Raises:
        UnavailableError: the broker does not answer.
    """
    with translate_errors("describe its topics", last_error, UnavailableError):
        try:
            return _list_topics(admin, topic, REFUSED_TIMEOUT_SECONDS)
        except KafkaException:
            if last_error.refused:
                raise
        return _list_topics(admin, topic, REQUEST_TIMEOUT_SECONDS - REFUSED_TIMEOUT_SECONDS)


def _list_topics(admin: AdminClient, topic: str, timeout_seconds: float) -> ClusterMetadata:
    try:
        return admin.list_topics(topic, timeout=timeout_seconds)
    finally:
        admin.poll(0)  # calls error_cb, which says why the request failed


def partitions_of(metadata: ClusterMetadata, topic: str) -> list[TopicPartition]:
    """The topic's partitions, none if it does not exist.

    Raises:
        UnavailableError: the broker does not describe the topic.
    """
    found = metadata.topics[topic]
    if found.error is None:
        return [TopicPartition(topic, number) for number in sorted(found.partitions)]
    if found.error.code() in MISSING_TOPIC:
        return []
    raise UnavailableError(f"topic {topic}: {explain(found.error)}")


def topic_id(admin: AdminClient, topic: str) -> str:
    """The id that a topic got when it was created; before Kafka 2.8 all topics have the same.

    Raises:
        UnavailableError: the broker does not answer, or the topic does not exist.
    """
    names = TopicCollection([topic])
    with translate_errors("describe its topics", LastError(), UnavailableError):
        try:
            found = wait_for(admin.describe_topics(names, request_timeout=REQUEST_TIMEOUT_SECONDS)[topic])
        except KafkaException as exception:
            if exception.args[0].code() not in MISSING_TOPIC:
                raise
            raise UnavailableError(f"topic {topic} does not exist") from None
    return str(found.topic_id)


def topic_settings(admin: AdminClient, topic: str) -> dict[str, str]:
    """The topic's settings.

    Raises:
        KafkaException: the broker does not show them (this needs ``DescribeConfigs``), or does not answer.
    """
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    (future,) = admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_SECONDS).values()
    return {name: str(entry.value) for name, entry in wait_for(future).items()}


def readable_settings(admin: AdminClient, topic: str) -> dict[str, str]:
    """The topic's settings; none if the client may not read them.

    Raises:
        UnavailableError: the broker does not answer.
    """
    with translate_errors(f"read the settings of topic {topic}", LastError(), UnavailableError):
        try:
            return topic_settings(admin, topic)
        except KafkaException as exception:
            if exception.args[0].code() not in PERMANENT_ERRORS:
                raise
    return {}


def offsets(
    admin: AdminClient,
    partitions: Sequence[TopicPartition],
    position: OffsetSpec,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[int, int]:
    """The offset at a position of each partition; -1 if the partition has no record there.

    Args:
        admin: a client of the cluster.
        partitions: all of one topic.
        position: earliest, latest, or the first record from a time on.
        isolation: whether the end is the last stable offset, or lies behind open transactions.

    Raises:
        UnavailableError: the broker does not answer.
    """
    with translate_errors("list a topic's offsets", LastError(), UnavailableError):
        wanted = dict.fromkeys(partitions, position)
        futures = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=REQUEST_TIMEOUT_SECONDS)
        found = {partition.partition: wait_for(future).offset for partition, future in futures.items()}
    if OFFSET_INVALID in found.values():  # the client reports no error then, and "no record" would have a meaning
        raise UnavailableError("Kafka failed to list a topic's offsets: no answer arrived")
    return found


def offset_ranges(
    admin: AdminClient, partitions: Sequence[TopicPartition], start: OffsetSpec
) -> dict[int, OffsetRange]:
    """From a position to the end of each partition, behind open transactions.

    Raises:
        UnavailableError: the broker does not answer.
    """
    starts, ends = offsets(admin, partitions, start), offsets(admin, partitions, OffsetSpec.latest())
    return {number: OffsetRange(starts[number], end) for number, end in ends.items()}


def at_time(time_ms: int) -> OffsetSpec:
    """The first record from a time on, in milliseconds since the epoch."""
    position: OffsetSpec = OffsetSpec.for_timestamp(max(0, time_ms))  # negative ones have meanings of their own
    return position
