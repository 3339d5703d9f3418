"""What every shard's worker needs, made once for a process: services found, identity insisted on."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine

from outbox.leases import Leases
from outbox.models import Identity, PendingRow
from outbox.notifications import Bell
from outbox.store import Store
from relay.drain_signal import Marks
from relay.health import Health
from relay.kafka import progress
from relay.kafka.encoder import Encoder, make_encoder
from relay.kafka.errors import ErrorMemory, admin_client
from relay.kafka.producer import Publisher
from relay.kafka.topics import Topics
from relay.metrics import RelayMetrics
from relay.process_lock import is_dead
from relay.settings import RelaySettings, kafka_client_config, kafka_producer_config
from relay.shard.fair_semaphore import Turns
from relay.shard.worker import Parts, ignore_steps

T = TypeVar("T")


class Insist(Protocol):
    """Makes an attempt at something that a service has to give; may repeat it until it succeeds."""

    def __call__(self, service: str, attempt: Callable[[], T], /) -> T:
        """What the attempt gives."""


def once(_service: str, attempt: Callable[[], T]) -> T:
    """For those who do not wait for a service."""
    return attempt()


@dataclass(frozen=True)
class Prepared:
    """The services of one process, as they were found at its start.

    Attributes:
        bound: what this outbox is used with.
        bell: heard when there are new rows.
        marks: what the shards tell the inference stage.
        turns: which the shards take.
    """

    settings: RelaySettings
    store: Store
    leases: Leases
    topics: Topics
    bound: Identity
    encoder: Encoder
    bell: Bell
    turns: Turns
    marks: Marks = field(default_factory=Marks)

    def parts(
        self,
        stop: threading.Event,
        health: Health,
        metrics: RelayMetrics,
        complete: Callable[[list[PendingRow]], list[PendingRow]] = list,
        step: Callable[[str, int], None] = ignore_steps,
    ) -> Parts:
        """What one shard's worker works with.

        Args:
            stop: ends that worker.
            health: of the process.
            metrics: of the process.
            complete: fills in what rows lack.
            step: told each step as it is reached.
        """
        settings = self.settings
        return Parts(
            store=self.store,
            leases=self.leases,
            encoder=self.encoder,
            outbox_id=self.bound.outbox_id,
            check_identity=self.check_identity,
            complete=complete,
            publisher=lambda shard: self._publisher(shard, stop),
            read_back=lambda shard: self.read_back(shard, stop),
            dead_owner=self._dead_owner,
            batch_size=settings.relay_batch_size,
            parked_rows_hold=settings.outbox_parked_policy == "wait",
            inference=settings.inference_url is not None,
            bell=self.bell,
            stop=stop,
            health=health,
            metrics=metrics,
            marks=self.marks,
            turns=self.turns,
            step=step,
        )

    @property
    def admin(self) -> AdminClient:
        """A new client: it reads certificates and keys as they are now."""
        return admin_client(kafka_client_config(self.settings), ErrorMemory())

    def check_identity(self) -> None:
        """At each taking, for the brokers behind an address, and the database behind its, can change."""
        identity = self.store.identity()  # resharding changes it under a running relay
        cluster_id = self.topics.prepare(identity)
        self.store.bind_identity(replace(self.bound, shards=identity.shards, cluster_id=cluster_id))

    def read_back(self, shard: int, stop: threading.Event, below: int | None = None) -> progress.StoredProgress | None:
        """The shard's last committed progress record; with ``below``, the last one of a smaller sequence."""
        place = (self.settings.kafka_progress_topic, shard)
        key = progress.key_of(self.bound.outbox_id, shard)
        config = kafka_client_config(self.settings)
        return progress.read_back(config, self.admin, place, key, stop.is_set, below)

    def _publisher(self, shard: int, stop: threading.Event) -> Publisher:
        settings = self.settings
        return Publisher(
            kafka_producer_config(settings),
            f"{settings.kafka_transactional_id_prefix}{shard + 1:02d}",
            settings.kafka_topic,
            (settings.kafka_progress_topic, shard, progress.key_of(self.bound.outbox_id, shard)),
            stop.is_set,
        )

    def _dead_owner(self, shard: int) -> str | None:
        found = self.leases.owners().get(shard)
        return found if found and is_dead(found) else None


def prepare(
    settings: RelaySettings,
    engine: Engine,
    leases: Leases,
    insist: Insist = once,
    encoder: Callable[[RelaySettings], Encoder] = make_encoder,
) -> Prepared:
    """Find database, Kafka and registry in turn, and see that this outbox is used with them.

    Args:
        settings: of the relay.
        engine: of the outbox.
        leases: of this process.
        insist: makes each attempt at a service.
        encoder: makes one of rows.

    Raises:
        MisconfiguredError, OutboxMismatchError: waiting does not help; nobody has been fenced.
    """
    store = Store(engine)
    identity = insist("database", store.identity)
    topics = Topics(settings)
    cluster_id = insist("kafka", lambda: topics.prepare(identity))
    bound = Identity(
        identity.outbox_id,
        identity.shards,
        settings.kafka_topic,
        settings.kafka_progress_topic,
        settings.kafka_transactional_id_prefix,
        cluster_id,
    )
    insist("database", lambda: store.bind_identity(bound))
    made = insist("schema registry", lambda: encoder(settings))
    # A shard that asks CXone waits for its answers most of the time, and rows gather meanwhile.
    turns = Turns(identity.shards) if settings.cxone_enrich_url else Turns()
    return Prepared(settings, store, leases, topics, bound, made, Bell(engine), turns)
