"""The Kafka clients of a shard: its transactional producer, and the reader of its progress records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Self

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from relay.kafka.client import admin_client
from relay.kafka.consumer import CommittedReader
from relay.kafka.errors import LastError
from relay.kafka.producer import Publisher
from relay.kafka.progress import ProgressReader, StoredProgress, destination
from relay.settings import RelaySettings, kafka_client_config, kafka_producer_config

FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
"""The client reads them when it is created."""


def _changed_at(config: Mapping[str, Any]) -> list[float]:
    """When each file that a client reads was last changed, in seconds since the epoch; 0 if there is none."""
    paths = (Path(str(config.get(name, ""))) for name in FILES)
    return [path.stat().st_mtime if path.is_file() else 0.0 for path in paths]


def transactional_id(prefix: str, shard: int) -> str:
    """The transactional id of a shard, under which a new producer fences the earlier ones. Numbered from 01."""
    return f"{prefix}{shard + 1:02d}"


@dataclass(frozen=True)
class ShardClients:
    """Creates the clients of one outbox's shards. Each is new, with password, certificates and keys as they are now."""

    outbox_id: str
    topic: str
    progress_topic: str
    transactional_id_prefix: str
    client_config: Callable[[], dict[str, Any]]
    """The configuration of clients as it is now: a password may change in its file."""
    producer_config: Callable[[], dict[str, Any]]
    make_admin: Callable[[dict[str, Any]], AdminClient] = lambda config: admin_client(config, LastError())
    new_producer: Callable[..., Producer] = Producer
    new_consumer: Callable[..., Consumer] = Consumer
    clock: Callable[[], float] = monotonic

    @classmethod
    def from_settings(cls, settings: RelaySettings, outbox_id: str) -> Self:
        """The clients that the settings describe."""
        return cls(
            outbox_id=outbox_id,
            topic=settings.kafka_topic,
            progress_topic=settings.kafka_progress_topic,
            transactional_id_prefix=settings.kafka_transactional_id_prefix,
            client_config=partial(kafka_client_config, settings),
            producer_config=partial(kafka_producer_config, settings),
        )

    @property
    def admin(self) -> AdminClient:
        """A new admin client."""
        return self.make_admin(self.client_config())

    def publisher(self, shard: int, stopping: Callable[[], bool]) -> Publisher:
        """Create a transactional producer. It fences no other yet.

        Args:
            shard: the shard whose rows it sends.
            stopping: whether the relay was asked to stop; ends every wait.
        """
        config = self.producer_config()
        files = _changed_at(config)
        return Publisher(
            config,
            transactional_id(self.transactional_id_prefix, shard),
            self.topic,
            destination(self.progress_topic, self.outbox_id, shard),
            stopping,
            self.new_producer,
            self.clock,
            lambda: self.producer_config() != config or _changed_at(config) != files,
        )

    def read_back(self, shard: int, stopping: Callable[[], bool], below: int | None = None) -> StoredProgress | None:
        """Read the shard's last committed progress record.

        Args:
            shard: the shard's number.
            stopping: as of ``publisher``.
            below: read the last record whose sequence is smaller instead.
        """
        reader = ProgressReader(
            self.client_config(), self.admin, self.progress_topic, self.outbox_id, stopping, self._open_reader
        )
        return reader.last(shard, below)

    def _open_reader(self, config: dict[str, Any]) -> CommittedReader:
        return CommittedReader(config, self.new_consumer, self.clock)
