"""The relay process: joins the relays that are there, sends its share of the shards in threads, stops in time."""

import threading
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.db.rights import RELAY
from outbox.errors import DatabaseUnavailableError, OutboxError, SchemaOutdatedError
from outbox.inference_queue import InferenceQueue
from outbox.leases import Leases
from outbox.models import PendingRow, ShardAssignment
from outbox.store import Store
from relay.backoff import Backoff, pause_after
from relay.enrichment.enricher import Enricher
from relay.enrichment.failures import FailurePolicy, FailureRecord
from relay.errors import MisconfiguredError, StoppedError, UnavailableError
from relay.health import Health
from relay.inference.worker import InferenceWorker
from relay.metrics import DegradedGauge, RelayMetrics
from relay.process.assignment import Availability, plan_rebalance
from relay.process.audit_log import AuditLog
from relay.process.backlog_metrics import BacklogMetrics
from relay.process.http_server import MetricsServer
from relay.process.pruner import Pruner
from relay.process.services import RelayServices, connect_services
from relay.process_lock import Owner, is_dead
from relay.settings import RelaySettings
from relay.shard.worker import ShardWorker, ignore_steps

log = structlog.get_logger(__name__)

STOP_SECONDS = 20.0
"""How long workers have for the batch in hand; platforms kill after 30 s, and we promise 25."""
LOOK_SECONDS = (0.8, 1.2)
"""Pause between two looks at who is there and which shards are free; at random, lest relays keep step."""
LISTEN_SECONDS = 1.0
"""How long the bell is listened to before the stop is looked at."""

T = TypeVar("T")


class Supervisor:
    """One relay process.

    Args:
        settings: of the relay.
        stop: set by whoever wants it to stop.
        step: told each step of each shard as it is reached (for those who watch or kill).
        health: what is wrong, and whether the loop turns.
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
        DegradedGauge(self._metrics.registry, self._health.conditions)

    def run(self) -> None:
        """Prepare, send until the stop, and give the shards back.

        Raises:
            MisconfiguredError, OutboxMismatchError, UnsafeDatabaseError: at start, before anyone is fenced.
        """
        server = self._serve_metrics()
        owner, ended = Owner(), True
        try:
            # A relay works on few connections: one a shard, and some for the rest.
            engine = create_outbox_engine(self._settings.database_url.get_secret_value(), may_create=False)
            self._insist("database", lambda: Store(engine).check_writable(RELAY))
            self._refuse_other_shards(self._insist("database", Store(engine).identity).shards)
            leases = Leases(engine, owner.id, self._settings.relay_lease_seconds)
            ended = self._work(connect_services(self._settings, engine, leases, self._insist), engine)
        except StoppedError:
            log.info("stopped while it waited for a service", action="stopped")
        finally:
            if ended:  # else the file stays, and tells others at our exit that this owner is dead
                owner.close()
            server.close()

    def _serve_metrics(self) -> MetricsServer:
        settings = self._settings
        token = settings.metrics_token.get_secret_value().encode() if settings.metrics_token else None
        host, port = settings.relay_metrics_host, settings.relay_metrics_port
        return MetricsServer(host, port, self._metrics.registry, self._health, token)

    def _refuse_other_shards(self, shards: int) -> None:
        if self._settings.relay_shards not in (None, shards):
            raise MisconfiguredError(
                f"RELAY_SHARDS={self._settings.relay_shards}, but this outbox has {shards} shards since its first "
                f"migration or its last reshard: unset RELAY_SHARDS, or set it to {shards}"
            )

    def _insist(self, service: str, attempt: Callable[[], T]) -> T:
        """Try until it succeeds; what waiting cannot cure is raised."""
        backoff = Backoff(Random())  # noqa: S311 - jitter, not cryptography
        while not self._stop.is_set():
            self._health.turned()
            try:
                result = attempt()
            except (UnavailableError, DatabaseUnavailableError, SchemaOutdatedError) as error:
                self._health.degraded(service, str(error))
                self._stop.wait(pause_after(error, backoff))
            else:
                self._health.recovered(service)
                return result
        raise StoppedError(f"asked to stop while waiting for the {service}")

    def _work(self, services: RelayServices, engine: Engine) -> bool:
        """Send until the stop; whether every thread ended in time."""
        calls = InferenceQueue(engine, services.leases.owner) if services.settings.inference_url is not None else None
        pool = ShardPool(services, self._stop, self._health, self._metrics, self._step, self._failure_policy)
        backlog_metrics = BacklogMetrics(services.store, calls, pool.owned, self._stop, self._metrics)
        threads = [
            threading.Thread(target=pool.run, name="sharing", daemon=True),
            threading.Thread(target=pool.listen, name="bell", daemon=True),
            threading.Thread(target=backlog_metrics.run, name="gauges", daemon=True),
            threading.Thread(target=AuditLog(engine, self._stop).run, name="audit", daemon=True),
        ]
        if services.settings.inference_url is not None:
            owner = services.leases.owner
            inference = InferenceWorker(
                self._settings,
                engine,
                owner,
                self._stop,
                self._health,
                self._metrics,
                services.drain_signal,
                self._step,
            )
            threads.append(threading.Thread(target=inference.run, name="inference", daemon=True))
        if self._settings.outbox_retention is not None:
            retention = Pruner(engine, self._settings.outbox_retention, self._stop, self._health)
            threads.append(threading.Thread(target=retention.run, name="retention", daemon=True))
        for thread in threads:
            thread.start()
        log.info("the relay runs", action="started", owner=services.leases.owner)
        self._stop.wait()
        deadline = monotonic() + STOP_SECONDS
        threads += pool.stop()
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        left = [thread.name for thread in threads if thread.is_alive()]
        if left:
            log.warning("stopped without %s: the next relay finishes its work", ", ".join(left), action="stopped")
        else:
            log.info("stopped", action="stopped")
        return not left


class ShardThread:
    """A shard's worker in its thread, with a stop of its own.

    Args:
        shard: its number.
        make: makes the worker that ends with the event.
    """

    def __init__(self, shard: int, make: Callable[[int, threading.Event], ShardWorker]) -> None:
        self.stop = threading.Event()
        self.shard = make(shard, self.stop)
        self.thread = threading.Thread(target=self.shard.run, name=self.shard.subject, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Let it end after the batch in hand."""
        self.stop.set()
        self.shard.wake.set()


class ShardPool:
    """The workers of one relay: as many as its share of the shards.

    Args:
        prepared: the services.
        stop: ends the team.
        health: told which shards are paused.
        metrics: of the process.
        step: told each step of each shard.
        failure_policy: when enrichment gives an interaction up.
    """

    def __init__(
        self,
        services: RelayServices,
        stop: threading.Event,
        health: Health,
        metrics: RelayMetrics,
        step: Callable[[str, int], None],
        failure_policy: FailurePolicy | None = None,
    ) -> None:
        self._services, self._leases = services, services.leases
        self._stop, self._health, self._metrics, self._step = stop, health, metrics, step
        self._lock = threading.Lock()
        self._workers: dict[int, ShardThread] = {}
        self._availability = Availability(self._leases.lease_seconds)
        self._last_heartbeat: tuple[float, bool] | None = None  # when the last heartbeat was, and what it said
        self._paused: set[str] = set()
        self._complete: Callable[[list[PendingRow]], list[PendingRow]] = list
        if services.settings.cxone_enrich_url:
            failures = FailureRecord(Random(), failure_policy)  # noqa: S311 - jitter, not cryptography
            self._complete = Enricher(
                services.settings, services.store, stop, health, metrics, failures=failures
            ).complete

    def run(self) -> None:
        """Look again and again who is there and what is free, until the stop."""
        random = Random()  # noqa: S311 - jitter, not cryptography
        while not self._stop.is_set():
            self._health.turned()
            try:
                self._look()
                self._health.recovered("sharing")
            except OutboxError as error:
                self._health.degraded("sharing", str(error))
            except Exception:
                log.exception("the sharing of shards met an error nobody expected", action="unexpected")
            self._stop.wait(random.uniform(*LOOK_SECONDS))
        try:
            self._leases.leave()
        except OutboxError:
            log.info("this relay could not say that it leaves: its heartbeat runs out", action="heartbeat_left")

    def owned(self) -> set[int]:
        """The shards that this relay sends."""
        with self._lock:
            return {number for number, worker in self._workers.items() if worker.shard.holds}

    def stop(self) -> list[threading.Thread]:
        """Ask every worker to end after the batch in hand; their threads."""
        with self._lock:
            for worker in self._workers.values():
                worker.end()
            return [worker.thread for worker in self._workers.values()]

    def listen(self) -> None:
        """Wake the workers whose shards have new rows, until the stop."""
        listener, told = self._services.listener, ""
        while not self._stop.is_set():
            try:
                notified = listener.wait(LISTEN_SECONDS)
                with self._lock:
                    for shard in self._workers.keys() & set(notified):
                        self._workers[shard].shard.wake.set()
            except OutboxError as error:
                if told != (told := str(error)):
                    log.info("rows are looked for without notifications: %s", error, action="not_notified")
                self._stop.wait(LISTEN_SECONDS)
        listener.close()

    def _look(self) -> None:
        self._dismiss_ended()
        self._heartbeat()
        members, assignments = self._leases.shared()
        me = self._leases.owner
        if not any(m.owner == me and m.live for m in members):
            self._last_heartbeat = None  # it took too long to come back here, and others closed the gap
            return
        owners = {m.owner for m in members} | {h.owner for h in assignments if h.owner}
        dead = {owner for owner in owners - {me} if is_dead(owner)}
        working = [n for n, worker in self._workers.items() if not worker.stop.is_set()]
        todo = plan_rebalance(me, members, assignments, working, dead)
        for shard in todo.stop:
            self._workers[shard].end()
            log.info("shard %d is given back after the batch in hand", shard, action="giving_back", shard=shard)
        for shard in todo.start:
            self._start(shard)
        self._report_pauses(assignments)
        for gone in sorted(m.owner for m in members if (not m.live or m.owner in dead) and m.owner != me):
            self._leases.leave(gone)

    def _heartbeat(self) -> None:
        workers = [worker.shard for worker in self._workers.values()]
        healthy = self._availability.judge([(w.healthy_at, w.holds) for w in workers], monotonic())
        if self._last_heartbeat is not None:
            at, said = self._last_heartbeat
            due = at + self._leases.lease_seconds / 3 - LOOK_SECONDS[1]
            if said == healthy and monotonic() < due:
                return
            if said and not healthy:
                log.warning("no shard of this relay moves: it leaves them to others, if there are", action="unable")
        self._leases.heartbeat(healthy=healthy)
        self._last_heartbeat = monotonic(), healthy

    def _start(self, shard: int) -> None:
        def make(number: int, stop: threading.Event) -> ShardWorker:
            shard_services = self._services.shard_services(
                stop, self._health, self._metrics, self._complete, self._step
            )
            return ShardWorker(number, shard_services)

        with self._lock:
            if shard not in self._workers and not self._stop.is_set():
                self._workers[shard] = ShardThread(shard, make)

    def _dismiss_ended(self) -> None:
        with self._lock:
            ended = [n for n, worker in self._workers.items() if not worker.thread.is_alive()]
            for number in ended:
                self._health.recovered(self._workers.pop(number).shard.subject)

    def _report_pauses(self, assignments: Sequence[ShardAssignment]) -> None:
        paused = {
            f"shard {h.shard}": h for h in assignments if h.paused_by is not None and h.shard not in self._workers
        }
        for subject, holding in paused.items():
            self._health.degraded(subject, f"paused by {holding.paused_by}: {holding.paused_reason}")
        for subject in self._paused - set(paused):
            self._health.recovered(subject)
        self._paused = set(paused)
