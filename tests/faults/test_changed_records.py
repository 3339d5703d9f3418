"""A record that is changed on its way from Kafka, which no lower layer notices without TLS."""

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from relay.errors import UnavailableError
from relay.kafka.client import OffsetRange
from relay.kafka.consumer import CommittedReader
from testkit.proxied_services import ProxiedKafka
from testkit.topic import create_topics

FETCH = 1
"""API key of the request."""
WRITTEN, CHANGED = b"rows 1 to 500", b"rows 2 to 500"


@pytest.fixture
def topic(proxied_kafka: ProxiedKafka) -> Iterator[str]:
    """A topic with a record; answers are as the broker gives them again afterwards."""
    name = f"changed-{uuid.uuid4().hex[:8]}"
    create_topics(proxied_kafka.client_config, NewTopic(name, 1, 1))
    producer = Producer(proxied_kafka.client_config)
    producer.produce(name, WRITTEN)
    assert producer.flush(30) == 0
    yield name
    proxied_kafka.proxy.change = None


def read(kafka: ProxiedKafka, topic: str) -> list[bytes | None]:
    """Return the values of the topic's records, read through the proxy."""
    with CommittedReader({"bootstrap.servers": kafka.proxied_servers}) as reader:
        pages = reader.read(topic, {0: OffsetRange(0, 1)}, 10, 30)
        return [message.value() for page in pages for message in page]


def test_a_record_that_was_changed_on_its_way_is_not_read(proxied_kafka: ProxiedKafka, topic: str) -> None:
    """A changed progress record would mark rows that are not in Kafka. Unchanged, it is read the next time."""
    proxied_kafka.proxy.change = lambda key, answer: answer.replace(WRITTEN, CHANGED) if key == FETCH else answer
    with pytest.raises(UnavailableError, match="failed CRC32C check"):
        read(proxied_kafka, topic)
    proxied_kafka.proxy.change = lambda _key, answer: answer
    assert read(proxied_kafka, topic) == [WRITTEN]
