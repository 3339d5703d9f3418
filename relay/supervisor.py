"""The relay process: prepares what every shard needs, runs the shards in threads, and stops in time."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from time import monotonic
from typing import TypeVar

import structlog
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.bell import Bell
from outbox.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError, OutboxError, SchemaOutdatedError
from outbox.leases import Leases
from outbox.rows import Identity
from outbox.store import Store
from relay import progress
from relay.backoff import Backoff
from relay.encoding import Encoder, schema_id
from relay.errors import MisconfiguredError, StoppedError, UnavailableError
from relay.health import Health
from relay.inference import InferenceWorker
from relay.kafka import ErrorMemory, translated
from relay.metrics import RelayMetrics
from relay.owner import Owner, is_dead
from relay.publisher import Publisher
from relay.server import MetricsServer
from relay.settings import RelaySettings, kafka_client_config, kafka_producer_config
from relay.shard import Parts, ShardWorker, ignore_steps
from relay.topics import prepare_topics

log = structlog.get_logger(__name__)

STOP_SECONDS = 20.0
"""How long workers have for the batch in hand; platforms kill after 30 s, and we promise 25."""
GAUGES_SECONDS = 5.0
LISTEN_SECONDS = 1.0
"""How long the bell is listened to before the stop is looked at."""

T = TypeVar("T")


class Supervisor:
    """One relay process.

    Args:
        settings: of the relay.
        stop: set by whoever wants it to stop.
        step: told each step of each shard as it is reached (for those who watch or kill).
    """

    def __init__(
        self, settings: RelaySettings, stop: threading.Event, step: Callable[[str, int], None] = ignore_steps
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._step = step
        self._health = Health()
        self._metrics = RelayMetrics(CollectorRegistry())
        self._store: Store
        self._engine: Engine

    def run(self) -> None:
        """Prepare, send until the stop, and give the shards back.

        Raises:
            MisconfiguredError, OutboxMismatchError, UnsafeDatabaseError: at start, before anyone is fenced.
        """
        server = MetricsServer(self._settings.relay_metrics_port, self._metrics.registry, self._health)
        owner = Owner()
        try:
            # A relay works on few connections: one a shard, and some for the rest.
            self._engine = create_outbox_engine(self._settings.database_url.get_secret_value())
            self._store = Store(self._engine)
            parts = self._prepare(owner)
            self._work(parts, owner)
        except StoppedError:
            log.info("stopped while it waited for a service", action="stopped")
        finally:
            owner.close()
            server.close()

    # Preparing -------------------------------------------------------------------------------------

    def _prepare(self, owner: Owner) -> Parts:
        settings, store = self._settings, self._store
        identity = self._insist("database", store.identity)
        if settings.relay_shards not in (None, identity.shards):
            raise MisconfiguredError(
                f"RELAY_SHARDS={settings.relay_shards}, but this outbox has {identity.shards} shards since its first "
                f"migration: unset RELAY_SHARDS, or set it to {identity.shards}"
            )
        memory = ErrorMemory()
        with translated("make an admin client", memory, MisconfiguredError):
            admin = AdminClient(
                {**kafka_client_config(settings), "error_cb": memory},  # type: ignore[dict-item]
                logger=logging.getLogger("relay.librdkafka"),
            )
        cluster_id = self._insist("kafka", lambda: prepare_topics(admin, settings, identity.shards, memory))
        bound = Identity(
            identity.outbox_id,
            identity.shards,
            settings.kafka_topic,
            settings.kafka_progress_topic,
            settings.kafka_transactional_id_prefix,
            cluster_id,
        )
        self._insist("database", lambda: store.bind_identity(bound))
        encoder = Encoder(self._insist("schema registry", lambda: schema_id(settings)))
        leases = Leases(self._engine, owner.id, settings.relay_lease_seconds)
        progress_topic = settings.kafka_progress_topic

        def check_identity() -> None:
            # At each taking, for the brokers behind an address, and the database behind its, can change.
            now = prepare_topics(admin, settings, identity.shards, memory)
            store.bind_identity(replace(bound, cluster_id=now))

        def publisher(shard: int) -> Publisher:
            return Publisher(
                kafka_producer_config(settings),
                f"{settings.kafka_transactional_id_prefix}{shard + 1:02d}",
                settings.kafka_topic,
                (progress_topic, shard, progress.key_of(identity.outbox_id, shard)),
                self._stop.is_set,
            )

        def read_back(shard: int) -> progress.Progress | None:
            key = progress.key_of(identity.outbox_id, shard)
            place = (progress_topic, shard)
            return progress.read_back(kafka_client_config(settings), admin, place, key, self._stop.is_set)

        def dead_owner(shard: int) -> str | None:
            found = leases.owners().get(shard)
            return found if found and is_dead(found) else None

        return Parts(
            store=store,
            leases=leases,
            encoder=encoder,
            outbox_id=identity.outbox_id,
            check_identity=check_identity,
            publisher=publisher,
            read_back=read_back,
            dead_owner=dead_owner,
            batch_size=settings.relay_batch_size,
            parked_rows_hold=settings.outbox_parked_policy == "wait",
            inference=settings.inference_url is not None,
            bell=Bell(self._engine, identity.shards),
            stop=self._stop,
            health=self._health,
            metrics=self._metrics,
            step=self._step,
        )

    def _insist(self, subject: str, attempt: Callable[[], T]) -> T:
        """Try until it succeeds; what waiting cannot mend is raised."""
        backoff = Backoff(Random())  # noqa: S311 - jitter, not cryptography
        while not self._stop.is_set():
            try:
                result = attempt()
            except (UnavailableError, DatabaseUnavailableError, SchemaOutdatedError) as error:
                self._health.degraded(subject, str(error))
                self._stop.wait(backoff.failed())
            else:
                self._health.recovered(subject)
                return result
        raise StoppedError(f"asked to stop while waiting for the {subject}")

    # Working ---------------------------------------------------------------------------------------

    def _work(self, parts: Parts, owner: Owner) -> None:
        shards = sorted(parts.leases.owners())
        workers = [ShardWorker(shard, parts) for shard in shards]
        threads = [threading.Thread(target=w.run, name=w.subject, daemon=True) for w in workers]
        if parts.inference:
            inference = InferenceWorker(self._settings, self._engine, owner.id, self._stop, self._health, self._metrics)
            threads.append(threading.Thread(target=inference.run, name="inference", daemon=True))
        threads.append(threading.Thread(target=self._listen, args=(parts.bell, workers), name="bell", daemon=True))
        for thread in threads:
            thread.start()
        log.info("the relay runs with %d shard(s)", len(shards), action="started", owner=owner.id)
        while not self._stop.wait(GAUGES_SECONDS):
            self._measure(workers)
        for worker in workers:
            worker.wake.set()
        deadline = monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        left = [thread.name for thread in threads if thread.is_alive()]
        if left:
            log.warning("stopped without %s: the next relay finishes its work", ", ".join(left), action="stopped")
        else:
            log.info("stopped", action="stopped")

    def _listen(self, bell: Bell, workers: list[ShardWorker]) -> None:
        """Wake the workers whose shards have new rows."""
        while not self._stop.is_set():
            try:
                told = bell.wait(LISTEN_SECONDS)
                for worker in workers:
                    if worker.shard in told:
                        worker.wake.set()
            except OutboxError as error:
                log.debug("relays look for rows by themselves for now: %s", error)
                self._stop.wait(LISTEN_SECONDS)
        bell.close()

    def _measure(self, workers: list[ShardWorker]) -> None:
        metrics = self._metrics
        owned = {worker.shard for worker in workers if worker.holds}
        metrics.shards_owned.set(len(owned))
        metrics.rows.clear()  # a shard's gauges are exported by its owner only
        metrics.oldest.clear()
        try:
            status = [shard for shard in self._store.status() if shard.shard in owned]
        except OutboxError:
            return
        for shard in status:
            label = str(shard.shard)
            for state, count in (
                ("pending", shard.pending),
                ("waiting", shard.waiting),
                ("parked", shard.parked),
                ("discarded", shard.discarded),
            ):
                metrics.rows.labels(state, label).set(count)
            metrics.oldest.labels("kafka", label).set((shard.oldest_age_ms or 0) / 1000)
        metrics.lag.set(max((shard.oldest_age_ms or 0 for shard in status), default=0) / 1000)
