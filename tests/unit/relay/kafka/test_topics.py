"""Topics whose state the broker's answers do not agree on."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

import relay.kafka.errors
from outbox.models import Identity
from relay.errors import UnavailableError
from relay.kafka.topics import Topics
from relay.settings import RelaySettings

MOST_QUESTIONS = 20


class Contradictory:
    """A client of a cluster that does not know a topic, and refuses to create it because it is there."""

    asked = 0

    def __init__(self, *_: object, **__: object) -> None:
        """As the client's."""

    def list_topics(self, topic: str, **_: object) -> Any:
        """The topic is missing."""
        Contradictory.asked += 1
        assert Contradictory.asked < MOST_QUESTIONS, "it asks without end"
        missing = SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), partitions={})
        return SimpleNamespace(cluster_id="cluster", topics={topic: missing})

    def create_topics(self, topics: list[Any], **_: object) -> dict[str, "Future[None]"]:
        """The topic is there."""
        future: Future[None] = Future()
        future.set_exception(KafkaException(KafkaError(KafkaError.TOPIC_ALREADY_EXISTS)))
        return {topics[0].topic: future}

    def poll(self, _seconds: float) -> int:
        """No events."""
        return 0


def test_a_topic_that_is_there_and_not_known_is_waited_for_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while it is deleted, or before every broker has heard of it: whoever asked waits, and hears a stop."""
    monkeypatch.setattr(relay.kafka.errors, "AdminClient", Contradictory)
    settings = RelaySettings(
        database_url="sqlite:///x.db", kafka_bootstrap_servers="localhost:9", schema_registry_url="http://localhost:9"
    )
    with pytest.raises(UnavailableError, match="topic cxone-interactions-ml"):
        Topics(settings).prepare(Identity("outbox", 1, None, None, None, None))
