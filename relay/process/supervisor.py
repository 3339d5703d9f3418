"""The relay process: connects to its services, runs its threads until the stop, and ends them in time."""

import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from time import monotonic
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from config.tracing import start_tracer
from outbox.db.engine import create_outbox_engine
from outbox.db.rights import RELAY
from outbox.errors import DatabaseUnavailableError, SchemaOutdatedError
from outbox.inference_queue import InferenceQueue
from outbox.leases import Leases
from outbox.store import Store
from relay.backoff import Backoff, pause_after
from relay.enrichment.enricher import Enricher
from relay.enrichment.failures import FailurePolicy, FailureRecord
from relay.errors import MisconfiguredError, StoppedError, UnavailableError
from relay.health import Health
from relay.inference.worker import InferenceWorker
from relay.metrics import DegradedGauge, RelayMetrics
from relay.process.audit_log import AuditLog
from relay.process.backlog_metrics import BacklogMetrics, backlog_families
from relay.process.http_server import MetricsServer
from relay.process.pruner import Pruner
from relay.process.services import connect_services
from relay.process.shard_pool import ShardPool
from relay.process_lock import ProcessLock
from relay.settings import RelaySettings
from relay.shard.services import ShardServices, ignore_steps

log = structlog.get_logger(__name__)

STOP_SECONDS = 20.0
"""How long threads have for the batch in hand. Platforms kill after 30 s, and the documentation promises 25."""

SHARD_ANSWER_SECONDS = 10.0
"""How long a shard waits for the result of a statement. Its statements are short, and rows wait while a connection
drops everything; counting and pruning may take longer, and nothing waits for them."""

T = TypeVar("T")


class Supervisor:
    """One relay process.

    Args:
        stop: ends it.
        step: called at each step of each shard (see ``ShardServices``).
        failure_policy: when enrichment gives an interaction up.
    """

    def __init__(
        self,
        settings: RelaySettings,
        stop: threading.Event,
        step: Callable[[str, int], None] = ignore_steps,
        health: Health | None = None,
        failure_policy: FailurePolicy | None = None,
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._step = step
        self._health = health or Health()
        self._failure_policy = failure_policy
        self._metrics = RelayMetrics(CollectorRegistry())
        DegradedGauge(self._metrics.registry, self._health.subjects)
        self._metrics.counted.replace(backlog_families([], 0, None))  # it owns no shard yet

    def run(self) -> None:
        """Connect, send until the stop, and give the shards back.

        Raises:
            MisconfiguredError, OutboxMismatchError, UnsafeDatabaseError: at start; no producer has been fenced.
        """
        server, tracer = self._serve_metrics(), start_tracer("cxone-outbox-relay")
        lock, ended = ProcessLock(), True
        try:
            url = self._settings.database_url.get_secret_value()
            engine = create_outbox_engine(url, may_create=False, answer_seconds=SHARD_ANSWER_SECONDS)
            services = replace(self._connect(engine, lock.owner_id), tracer=tracer)
            ended = self._run_threads(services, create_outbox_engine(url, may_create=False))
        except StoppedError:
            log.info("stopped while waiting for a service", action="stopped")
        finally:
            if ended:  # otherwise the lock file stays, by which others see after our exit that this owner is dead
                lock.close()
            tracer.stop()
            server.close()

    def _serve_metrics(self) -> MetricsServer:
        settings = self._settings
        token = settings.metrics_token.get_secret_value().encode() if settings.metrics_token else None
        host, port = settings.relay_metrics_host, settings.relay_metrics_port
        return MetricsServer(host, port, self._metrics.registry, self._health, token)

    # Connecting ------------------------------------------------------------------------------------

    def _connect(self, engine: Engine, owner: str) -> ShardServices:
        settings, store = self._settings, Store(engine)
        self._retry("database", lambda: store.check_writable(RELAY))
        self._check_shards(self._retry("database", store.identity).shards)
        leases = Leases(engine, owner, settings.relay_lease_seconds)
        services = connect_services(settings, engine, leases, self._health, self._metrics, self._retry)
        services = replace(services, step=self._step)
        if settings.cxone_enrich_url:
            failures = FailureRecord(Random(), self._failure_policy)  # noqa: S311 - jitter, not cryptography
            enricher = Enricher(settings, services.store, self._stop, self._health, self._metrics, failures=failures)
            services = replace(services, enrich=enricher.complete)
        return services

    def _check_shards(self, shards: int) -> None:
        if self._settings.relay_shards not in (None, shards):
            raise MisconfiguredError(
                f"RELAY_SHARDS={self._settings.relay_shards}, but this outbox has {shards} shards since its first "
                f"migration or its last reshard: unset RELAY_SHARDS, or set it to {shards}"
            )

    def _retry(self, service: str, attempt: Callable[[], T]) -> T:
        """Retry until it succeeds; raises errors that waiting does not resolve."""
        backoff = Backoff(Random())  # noqa: S311 - jitter, not cryptography
        while not self._stop.is_set():
            self._health.record_liveness()
            try:
                result = attempt()
            except (UnavailableError, DatabaseUnavailableError, SchemaOutdatedError) as error:
                self._health.degraded(service, str(error))
                self._stop.wait(pause_after(error, backoff))
            else:
                self._health.recovered(service)
                return result
        raise StoppedError(f"asked to stop while waiting for the {service}")

    # Running ---------------------------------------------------------------------------------------

    def _run_threads(self, services: ShardServices, engine: Engine) -> bool:
        """Run until the stop; returns whether every thread ended in time."""
        pool = ShardPool(services, self._stop)
        threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in self._tasks(services, engine, pool).items()
        ]
        for thread in threads:
            thread.start()
        log.info("relay started", action="started", owner=services.leases.owner)
        self._stop.wait()
        deadline = monotonic() + STOP_SECONDS
        threads += pool.stop()
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        running = [thread.name for thread in threads if thread.is_alive()]
        if running:
            log.warning(
                "stopped without %s: the next relay finishes its work", ", ".join(running), action="stopped_unfinished"
            )
        else:
            log.info("stopped", action="stopped")
        return not running

    def _tasks(self, services: ShardServices, engine: Engine, pool: ShardPool) -> dict[str, Callable[[], None]]:
        """What runs in a thread, by the thread's name.

        Args:
            services: of the shards.
            engine: for what no row waits for.
            pool: the shards.
        """
        settings, owner = self._settings, services.leases.owner
        queue = InferenceQueue(engine, owner) if settings.inference_url is not None else None
        tasks: dict[str, Callable[[], None]] = {
            "shard assignment": pool.run,
            "notifications": pool.listen,
            "backlog metrics": BacklogMetrics(Store(engine), queue, pool.owned, self._stop, self._metrics).run,
            "audit log": AuditLog(engine, self._stop, self._metrics).run,
        }
        if queue is not None:
            tasks["inference"] = InferenceWorker(
                settings,
                engine,
                owner,
                self._stop,
                self._health,
                self._metrics,
                services.drain_signal,
                self._step,
                tracer=services.tracer,
            ).run
        if settings.outbox_retention is not None:
            tasks["retention"] = Pruner(engine, settings.outbox_retention, self._stop, self._health, self._metrics).run
        return tasks
