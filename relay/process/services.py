"""Connect to the services at start: database, Kafka and schema registry, in this order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from sqlalchemy import Engine

from outbox.leases import Leases
from outbox.models import Identity
from outbox.notifications import Listener
from outbox.store import Store
from relay.drain_signal import DrainSignal
from relay.health import Health
from relay.kafka.encoder import Encoder, make_encoder
from relay.kafka.shard_clients import ShardClients
from relay.kafka.topics import Topics
from relay.metrics import RelayMetrics
from relay.process_lock import is_dead
from relay.settings import RelaySettings
from relay.shard.fair_semaphore import FairSemaphore
from relay.shard.services import ShardServices

T = TypeVar("T")


class RetryPolicy(Protocol):
    """Attempts something that needs a service, and may retry until it succeeds."""

    def __call__(self, service: str, attempt: Callable[[], T], /) -> T:
        """Return the result of the attempt."""


def try_once(_service: str, attempt: Callable[[], T]) -> T:
    """Attempt it once; the error is the caller's."""
    return attempt()


def connect_services(
    settings: RelaySettings,
    engine: Engine,
    leases: Leases,
    health: Health,
    metrics: RelayMetrics,
    retry_policy: RetryPolicy = try_once,
    encoder: Callable[[RelaySettings], Encoder] = make_encoder,
) -> ShardServices:
    """Connect to each service, and bind this outbox to the topics that the settings name.

    Args:
        settings, engine, leases, health, metrics: of this process.
        retry_policy: makes each attempt.
        encoder: makes the encoder of rows.

    Raises:
        MisconfiguredError, OutboxMismatchError: waiting does not help; no producer has been fenced.
    """
    store, topics = Store(engine), Topics(settings)
    bound = _bind_outbox(settings, store, topics, retry_policy)
    return ShardServices(
        store=store,
        leases=leases,
        encoder=retry_policy("schema registry", lambda: encoder(settings)),
        clients=ShardClients.from_settings(settings, bound.outbox_id),
        check_identity=lambda: _check_identity(store, topics, bound),
        dead_owner=lambda shard: _dead_owner(leases, shard),
        batch_size=settings.relay_batch_size,
        block_behind_parked=settings.outbox_on_parked == "block",
        inference=settings.inference_url is not None,
        listener=Listener(engine),
        health=health,
        metrics=metrics,
        drain_signal=DrainSignal(),
        # With enrichment, shards mostly wait for CXone, and rows gather meanwhile: no limit is needed.
        send_slots=FairSemaphore(bound.shards) if settings.cxone_enrich_url else FairSemaphore(),
    )


def _bind_outbox(settings: RelaySettings, store: Store, topics: Topics, retry_policy: RetryPolicy) -> Identity:
    """Prepare the topics, and store that this outbox is used with them."""
    identity = retry_policy("database", store.identity)
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
    return bound


def _check_identity(store: Store, topics: Topics, bound: Identity) -> None:
    """Check at each takeover: other brokers or another database may answer under the same address."""
    found = store.identity()  # a reshard may have changed it
    store.bind_identity(replace(bound, shards=found.shards, cluster_id=topics.prepare(found)))


def _dead_owner(leases: Leases, shard: int) -> str | None:
    owner = leases.owners().get(shard)
    return owner if owner and is_dead(owner) else None
