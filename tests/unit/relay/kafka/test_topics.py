"""A topic about which the broker contradicts itself."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox.models import Identity
from relay.errors import UnavailableError
from relay.kafka.topics import Topics
from relay.settings import RelaySettings

MAX_REQUESTS = 20


class ContradictoryAdmin:
    """An admin client of a cluster that does not list a topic, and refuses to create it because it exists."""

    def __init__(self) -> None:
        self.requests = 0

    def list_topics(self, topic: str, **_: object) -> Any:
        """The topic is missing."""
        self.requests += 1
        assert self.requests < MAX_REQUESTS, "it retries without end"
        missing = SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), partitions={})
        return SimpleNamespace(cluster_id="cluster", topics={topic: missing})

    def create_topics(self, topics: list[Any], **_: object) -> dict[str, "Future[None]"]:
        """The topic exists."""
        future: Future[None] = Future()
        future.set_exception(KafkaException(KafkaError(KafkaError.TOPIC_ALREADY_EXISTS)))
        return {topics[0].topic: future}

    def poll(self, _seconds: float) -> int:
        """No events."""
        return 0


def test_a_topic_that_exists_but_is_not_listed_is_unavailable() -> None:
    """As while it is deleted, or before every broker knows it: the caller retries, and can be stopped meanwhile."""
    settings = RelaySettings(
        database_url="sqlite:///x.db", kafka_bootstrap_servers="localhost:9", schema_registry_url="http://localhost:9"
    )
    admin: Any = ContradictoryAdmin()
    with pytest.raises(UnavailableError, match="topic cxone-interactions-ml"):
        Topics(settings, lambda _config, _last_error: admin).prepare(Identity("outbox", 1, None, None, None, None))
