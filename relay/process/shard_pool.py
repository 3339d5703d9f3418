"""The shards that a relay owns, each in a thread; keeps their number at the relay's fair share."""

import threading
from collections.abc import Sequence
from random import Random

import structlog

from outbox.errors import OutboxError
from outbox.models import RelayMember, ShardAssignment
from relay.process.assignment import Availability, plan_rebalance
from relay.process.periodic import repeat
from relay.process_lock import is_dead
from relay.shard.services import ShardServices
from relay.shard.worker import ShardWorker

log = structlog.get_logger(__name__)

SUBJECT = "shard assignment"
REBALANCE_SECONDS = (0.8, 1.2)
"""Pause between two rebalances; random, so that relays do not keep step."""
RETURN_SECONDS = 3 * REBALANCE_SECONDS[1]
"""How long a relay whose heartbeat expired waits for those of the others. If the database's clock was set, all expired
at the same moment, and the first relay to notice would take every shard."""
LISTEN_SECONDS = 1.0
"""How long to wait for notifications before the stop is checked."""


class ShardThread:
    """One shard's worker in a thread, with a stop of its own.

    Args:
        shard: its number, from 0.
        services: of the process.
    """

    def __init__(self, shard: int, services: ShardServices) -> None:
        self.stopping = threading.Event()
        self.worker = ShardWorker(shard, services, self.stopping)
        self.thread = threading.Thread(target=self.worker.run, name=self.worker.subject, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End it after the batch in hand."""
        self.stopping.set()
        self.worker.wake.set()


class ShardPool:
    """The shard threads of one relay, as many as its share of the shards.

    Args:
        services: of the process.
        stop: ends the pool.
    """

    def __init__(self, services: ShardServices, stop: threading.Event) -> None:
        self._services, self._leases, self._health = services, services.leases, services.health
        self._stop = stop
        self._lock = threading.Lock()
        self._threads: dict[int, ShardThread] = {}
        self._availability = Availability(self._leases.lease_seconds)
        self._last_heartbeat: tuple[float, bool] | None = None
        """When it was, and whether it said that this relay is healthy."""
        self._plan_at = 0.0
        self._paused: set[str] = set()

    def run(self) -> None:
        """Rebalance until the stop, then leave the other relays."""
        random = Random()  # noqa: S311 - jitter, not cryptography
        repeat(
            SUBJECT,
            self._run_once,
            self._stop,
            pause=lambda _: random.uniform(*REBALANCE_SECONDS),
            unavailable=lambda error: self._health.degraded(SUBJECT, str(error)),
        )
        try:
            self._leases.leave()
        except OutboxError:
            log.info("this relay could not sign off; its heartbeat expires by itself", action="heartbeat_left")

    def owned(self) -> set[int]:
        """The shards that this relay owns."""
        with self._lock:
            return {number for number, thread in self._threads.items() if thread.worker.owned}

    def stop(self) -> list[threading.Thread]:
        """End every shard thread after its batch in hand; returns the threads."""
        with self._lock:
            for thread in self._threads.values():
                thread.stop()
            return [thread.thread for thread in self._threads.values()]

    def listen(self) -> None:
        """Wake the shards that have new rows, until the stop."""
        listener, reported = self._services.listener, ""
        while not self._stop.is_set():
            try:
                notified = listener.wait(LISTEN_SECONDS)
                with self._lock:
                    for shard in self._threads.keys() & set(notified):
                        self._threads[shard].worker.wake.set()
            except OutboxError as error:
                if reported != (reported := str(error)):
                    log.info("notifications do not work, polling instead: %s", error, action="not_notified")
                self._stop.wait(LISTEN_SECONDS)
        listener.close()

    def _run_once(self) -> None:
        self._health.record_liveness()
        self._rebalance()
        self._health.recovered(SUBJECT)

    def _rebalance(self) -> None:
        """Read who is there and who owns what, decide, and start or stop shards."""
        self._forget_ended()
        if self._last_heartbeat is None:
            self._heartbeat()
        members, assignments = self._leases.relays_and_shards()
        me = self._leases.owner
        if not any(m.owner == me and m.live for m in members):
            self._last_heartbeat = None  # ours expired meanwhile, and others have taken our share
            self._plan_at = self._services.clock() + RETURN_SECONDS
            return
        self._heartbeat()  # after the look at what there was: it would hide that ours had expired
        if self._services.clock() < self._plan_at:
            return
        dead = self._dead_owners(members, assignments)
        running = [number for number, thread in self._threads.items() if not thread.stopping.is_set()]
        plan = plan_rebalance(me, members, assignments, running, dead)
        for shard in plan.stop:
            self._threads[shard].stop()
            log.info("shard %d is given back after the batch in hand", shard, action="giving_back", shard=shard)
        for shard in plan.start:
            self._start(shard)
        self._report_pauses(assignments)
        for gone in sorted(m.owner for m in members if (not m.live or m.owner in dead) and m.owner != me):
            self._leases.leave(gone)

    def _dead_owners(self, members: Sequence[RelayMember], assignments: Sequence[ShardAssignment]) -> set[str]:
        owners = {m.owner for m in members} | {a.owner for a in assignments if a.owner}
        return {owner for owner in owners - {self._leases.owner} if is_dead(owner)}

    def _heartbeat(self) -> None:
        """Write this relay's heartbeat when it is due or its health has changed."""
        now = self._services.clock()
        workers = [thread.worker for thread in self._threads.values()]
        healthy = self._availability.judge([(w.healthy_at, w.owned) for w in workers], now)
        if self._last_heartbeat is not None:
            at, was_healthy = self._last_heartbeat
            due = at + self._leases.lease_seconds / 3 - REBALANCE_SECONDS[1]
            if was_healthy == healthy and now < due:
                return
            if was_healthy and not healthy:
                log.warning(
                    "no shard of this relay makes progress: other relays, if there are any, take its shards over",
                    action="no_progress",
                )
        self._leases.heartbeat(healthy=healthy)
        self._last_heartbeat = self._services.clock(), healthy

    def _start(self, shard: int) -> None:
        with self._lock:
            if shard not in self._threads and not self._stop.is_set():
                self._threads[shard] = ShardThread(shard, self._services)

    def _forget_ended(self) -> None:
        with self._lock:
            ended = [number for number, thread in self._threads.items() if not thread.thread.is_alive()]
            for number in ended:
                self._health.recovered(self._threads.pop(number).worker.subject)

    def _report_pauses(self, assignments: Sequence[ShardAssignment]) -> None:
        paused = {
            f"shard {a.shard}": a for a in assignments if a.paused_by is not None and a.shard not in self._threads
        }
        for subject, assignment in paused.items():
            self._health.degraded(subject, f"paused by {assignment.paused_by}: {assignment.paused_reason}")
        for subject in self._paused - set(paused):
            self._health.recovered(subject)
        self._paused = set(paused)
