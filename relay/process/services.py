"""What every shard's worker needs, made once for a process: services found, identity insisted on."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from sqlalchemy import Engine

from outbox.leases import Leases
from outbox.models import Identity, PendingRow
from outbox.notifications import Listener
from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.health import Health
from relay.kafka.client import AdminClient
from relay.kafka.encoder import Encoder, make_encoder
from relay.kafka.progress import StoredProgress
from relay.kafka.shard_clients import ShardClients
from relay.kafka.topics import Topics
from relay.metrics import RelayMetrics
from relay.process_lock import is_dead
from relay.settings import RelaySettings
from relay.shard.fair_semaphore import FairSemaphore
from relay.shard.worker import ShardServices, ignore_steps

T = TypeVar("T")


class RetryPolicy(Protocol):
    """Makes an attempt at something that a service has to give; may repeat it until it succeeds."""

    def __call__(self, service: str, attempt: Callable[[], T], /) -> T:
        """What the attempt gives."""


def try_once(_service: str, attempt: Callable[[], T]) -> T:
    """For those who do not wait for a service."""
    return attempt()


@dataclass(frozen=True)
class RelayServices:
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
    listener: Listener
    send_slots: FairSemaphore
    drain_signal: DrainSignal = field(default_factory=DrainSignal)

    def shard_services(
        self,
        stop: threading.Event,
        health: Health,
        metrics: RelayMetrics,
        complete: Callable[[list[PendingRow]], list[PendingRow]] = list,
        step: Callable[[str, int], None] = ignore_steps,
    ) -> ShardServices:
        """What one shard's worker works with.

        Args:
            stop: ends that worker.
            health: of the process.
            metrics: of the process.
            complete: fills in what rows lack.
            step: told each step as it is reached.
        """
        settings = self.settings
        return ShardServices(
            store=self.store,
            leases=self.leases,
            encoder=self.encoder,
            outbox_id=self.bound.outbox_id,
            check_identity=self.check_identity,
            complete=complete,
            publisher=lambda shard: self.clients.publisher(shard, stop.is_set),
            read_back=lambda shard: self.read_back(shard, stop),
            dead_owner=self._dead_owner,
            batch_size=settings.relay_batch_size,
            block_behind_parked=settings.outbox_on_parked == "block",
            inference=settings.inference_url is not None,
            listener=self.listener,
            stop=stop,
            health=health,
            metrics=metrics,
            drain_signal=self.drain_signal,
            send_slots=self.send_slots,
            step=step,
        )

    @property
    def clients(self) -> ShardClients:
        """The shards' clients of Kafka."""
        return ShardClients.from_settings(self.settings, self.bound.outbox_id)

    @property
    def admin(self) -> AdminClient:
        """A new client: it reads certificates and keys as they are now."""
        return self.clients.admin

    def check_identity(self) -> None:
        """At each taking, for the brokers behind an address, and the database behind its, can change."""
        identity = self.store.identity()  # resharding changes it under a running relay
        cluster_id = self.topics.prepare(identity)
        self.store.bind_identity(replace(self.bound, shards=identity.shards, cluster_id=cluster_id))

    def read_back(self, shard: int, stop: threading.Event, below: int | None = None) -> StoredProgress | None:
        """The shard's last committed progress record; with ``below``, the last one of a smaller sequence."""
        return self.clients.read_back(shard, stop.is_set, below)

    def _dead_owner(self, shard: int) -> str | None:
        found = self.leases.owners().get(shard)
        return found if found and is_dead(found) else None


def connect_services(
    settings: RelaySettings,
    engine: Engine,
    leases: Leases,
    retry_policy: RetryPolicy = try_once,
    encoder: Callable[[RelaySettings], Encoder] = make_encoder,
) -> RelayServices:
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
    identity = retry_policy("database", store.identity)
    topics = Topics(settings)
    cluster_id = retry_policy("kafka", lambda: topics.prepare(identity))
    bound = Identity(
        identity.outbox_id,
        identity.shards,
        settings.kafka_topic,
        settings.kafka_progress_topic,
        settings.kafka_transactional_id_prefix,
        cluster_id,
    )
    retry_policy("database", lambda: store.bind_identity(bound))
    made = retry_policy("schema registry", lambda: encoder(settings))
    # A shard that asks CXone waits for its answers most of the time, and rows gather meanwhile.
    send_slots = FairSemaphore(identity.shards) if settings.cxone_enrich_url else FairSemaphore()
    return RelayServices(settings, store, leases, topics, bound, made, Listener(engine), send_slots)
