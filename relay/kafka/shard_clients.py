"""The Kafka clients of a shard: its transactional producer, and the reader of its progress records."""

from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient

from relay.kafka import progress
from relay.kafka.errors import LastError, admin_client
from relay.kafka.producer import Publisher
from relay.kafka.progress import StoredProgress
from relay.settings import RelaySettings, kafka_client_config, kafka_producer_config


def transactional_id(prefix: str, shard: int) -> str:
    """The transactional id of a shard, under which a new producer fences the earlier ones."""
    return f"{prefix}{shard + 1:02d}"


@dataclass(frozen=True)
class ShardClients:
    """Makes the clients of one outbox's shards. Each is new, so it reads certificates and keys as they are now."""

    outbox_id: str
    topic: str
    progress_topic: str
    transactional_id_prefix: str
    client_config: dict[str, object]
    producer_config: dict[str, object]
    make_admin: Callable[[dict[str, object]], AdminClient] = lambda config: admin_client(config, LastError())

    @classmethod
    def from_settings(cls, settings: RelaySettings, outbox_id: str) -> "ShardClients":
        """The clients that the settings describe."""
        return cls(
            outbox_id=outbox_id,
            topic=settings.kafka_topic,
            progress_topic=settings.kafka_progress_topic,
            transactional_id_prefix=settings.kafka_transactional_id_prefix,
            client_config=kafka_client_config(settings),
            producer_config=kafka_producer_config(settings),
        )

    @property
    def admin(self) -> AdminClient:
        """A new admin client."""
        return self.make_admin(self.client_config)

    def publisher(self, shard: int, stopping: Callable[[], bool]) -> Publisher:
        """A new transactional producer; it fences nobody yet.

        Args:
            shard: the shard that it sends.
            stopping: whether the relay was asked to stop; ends every wait.
        """
        return Publisher(
            self.producer_config,
            transactional_id(self.transactional_id_prefix, shard),
            self.topic,
            (self.progress_topic, shard, progress.key_of(self.outbox_id, shard)),
            stopping,
        )

    def read_back(self, shard: int, stopping: Callable[[], bool], below: int | None = None) -> StoredProgress | None:
        """Read the shard's last committed progress record.

        Args:
            shard: the shard.
            stopping: as of ``publisher``.
            below: read the last record whose sequence is smaller instead.
        """
        partition = (self.progress_topic, shard)
        key = progress.key_of(self.outbox_id, shard)
        return progress.read_back(self.client_config, self.admin, partition, key, stopping, below)
