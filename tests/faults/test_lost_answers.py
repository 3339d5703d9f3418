"""Answers of a broker that do not arrive: about offsets the client library reports no error then."""

import signal
import uuid
from collections.abc import Collection, Iterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from relay.errors import UnavailableError
from relay.kafka.client import at_time, offsets
from relay.kafka.topic_scan import is_compacted
from testkit.databases import NewDatabase
from testkit.proxied_services import ProxiedKafka
from testkit.rows import new_rows
from testkit.topic import create_topics
from tests.faults.conftest import NewProxiedDeployment

LIST_OFFSETS, DESCRIBE_CONFIGS = 2, 32
"""API keys of the requests."""


class LostAnswers:
    """Ends the connection before an answer arrives, as the death of a broker does, or is silent."""

    def __init__(self) -> None:
        self.api_key = LIST_OFFSETS
        """Of the request whose answers are lost."""
        self.lost: Collection[int] = ()
        """Which of them are lost, counted from 1."""
        self.silent = False
        self.counted = 0

    def __call__(self, api_key: int, answer: bytes) -> bytes:
        """Return what arrives instead of an answer.

        Raises:
            ConnectionResetError: the connection ends.
        """
        self.counted += api_key == self.api_key
        if api_key != self.api_key or self.counted not in self.lost:
            return answer
        if self.silent:
            return b""
        raise ConnectionResetError


@pytest.fixture
def answers(proxied_kafka: ProxiedKafka) -> Iterator[LostAnswers]:
    """The answers of the broker, none of which is lost until the test says so."""
    proxied_kafka.proxy.change = answers = LostAnswers()
    yield answers
    proxied_kafka.proxy.change = None


@pytest.mark.parametrize("lost", ["cut", "silent"])
@pytest.mark.parametrize(
    ("position", "offset"),
    [(OffsetSpec.earliest(), 0), (OffsetSpec.latest(), 0), (at_time(0), -1)],
    ids=["earliest", "latest", "time"],
)
def test_an_answer_that_was_lost_is_no_offset(
    proxied_kafka: ProxiedKafka, answers: LostAnswers, position: OffsetSpec, offset: int, lost: str
) -> None:
    """It is reported as an outage, not as a partition without records."""
    topic = f"lost-{uuid.uuid4().hex[:8]}"
    create_topics(proxied_kafka.client_config, NewTopic(topic, 1, 1))
    admin = AdminClient({"bootstrap.servers": proxied_kafka.proxied_servers})

    def ask() -> dict[int, int]:
        return offsets(admin, [TopicPartition(topic, 0)], position)

    assert ask() == {0: offset}
    answers.lost, answers.silent = {answers.counted + 1}, lost == "silent"
    with pytest.raises(UnavailableError, match="no answer arrived"):
        ask()


@pytest.mark.parametrize("lost", ["cut", "silent"])
def test_settings_that_were_lost_are_not_hidden_ones(
    proxied_kafka: ProxiedKafka, answers: LostAnswers, lost: str
) -> None:
    """It is reported as an outage: rows whose record was removed by compaction would otherwise be called missing."""
    topic = f"lost-{uuid.uuid4().hex[:8]}"
    compacted = NewTopic(topic, 1, 1, config={"cleanup.policy": "compact"})
    create_topics(proxied_kafka.client_config, compacted)
    admin = AdminClient({"bootstrap.servers": proxied_kafka.proxied_servers})
    assert is_compacted(admin, topic)
    answers.api_key, answers.lost, answers.silent = DESCRIBE_CONFIGS, range(1, 1_000), lost == "silent"
    with pytest.raises(UnavailableError, match=f"read the settings of topic {topic}"):
        is_compacted(admin, topic)


@pytest.mark.parametrize("number", [1, 2], ids=["earliest", "latest"])
def test_a_takeover_whose_answer_was_lost_sends_nothing_twice(
    new_sqlite: NewDatabase, new_proxied_deployment: NewProxiedDeployment, answers: LostAnswers, number: int
) -> None:
    """What a relay that died between commit and mark has sent is read back once Kafka answers."""
    deployment = new_proxied_deployment(new_sqlite(), RELAY_BATCH_SIZE="50")
    ids = deployment.record(new_rows(120))
    assert deployment.relay(kill_at="committed").wait() == -signal.SIGKILL
    answers.lost = {answers.counted + number}
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    assert answers.counted > max(answers.lost), "Kafka was asked again"
