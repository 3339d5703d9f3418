"""Calls the inference endpoint for each sent row, at least once, after its commit and independently of Kafka.

One thread, the dispatcher, claims batches of due calls from the outbox and hands them to the callers, which are
``INFERENCE_CONCURRENCY`` threads; it collects their results and records them in the outbox. The number of claimed
calls is limited, however many are due. While the endpoint fails, the circuit is open and no attempt is charged.
"""

import queue
import threading
from collections.abc import Callable
from random import Random
from time import monotonic

import structlog
from sqlalchemy import Engine

from config.tracing import NO_TRACER, Tracer
from outbox.errors import OutboxError
from outbox.inference_queue import CLAIM_MS, MAX_BATCH_CALLS, InferenceQueue
from outbox.models import CallResult
from relay.backoff import Backoff, pause_after
from relay.drain_signal import DrainSignal
from relay.health import INFERENCE, Health, report_unexpected
from relay.http_client import MAX_REQUEST_SECONDS
from relay.inference.caller import Batch, Caller, Finished
from relay.inference.circuit_breaker import CircuitBreaker, CircuitState
from relay.inference.policy import batches_to_hold, require_allowed_host
from relay.metrics import RelayMetrics
from relay.process_lock import is_dead
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

IDLE_SECONDS, MAX_IDLE_SECONDS = 0.05, 1.0
"""First and longest pause between two polls for due calls; rows marked by this relay end it early."""
COLLECT_SECONDS = 0.05
MAX_COLLECTED_RESULTS = 500
"""Results are collected for this long, or up to this many, and recorded in one transaction."""
DRAIN_BATCHES = 4
DRAIN_COLLECT_SECONDS = 1.0
"""While a backlog is drained into Kafka, which has priority: few batches are held, and results are recorded rarely."""
ASSUMED_LATENCY_SECONDS = 0.25
"""Latency of the endpoint until the first results are recorded."""
QUEUE_SUBJECT = f"{INFERENCE} calls"


class InferenceWorker:
    """Calls the endpoint for due rows.

    Args:
        settings: must contain ``INFERENCE_URL``.
        owner: in whose name calls are claimed.
        stop: set when the process is to end.
        health: shows a failing endpoint or outbox.
        metrics: count the calls.
        drain_signal: whether a backlog is being drained into Kafka.
        step: called with ``claimed``, ``called`` and ``results_recorded``, and shard 0.
        circuit: initial state of the circuit.
        max_call_seconds: a call is begun only if its claim lasts this long.
        tracer: records a span for each call.

    Raises:
        MisconfiguredError: the URL's host is not in ``INFERENCE_ALLOWED_HOSTS``.
    """

    def __init__(
        self,
        settings: RelaySettings,
        engine: Engine,
        owner: str,
        stop: threading.Event,
        health: Health,
        metrics: RelayMetrics,
        drain_signal: DrainSignal,
        step: Callable[[str, int], None],
        *,
        circuit: CircuitState | None = None,
        max_call_seconds: float = MAX_REQUEST_SECONDS,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        require_allowed_host(settings.inference_url or "", settings.inference_allowed_hosts)
        self._concurrency, self._max_call_seconds = settings.inference_concurrency, max_call_seconds
        self._stop, self._health, self._drain_signal, self._step = stop, health, drain_signal, step
        self._random = Random()  # noqa: S311 - jitter, not cryptography
        self._queue = InferenceQueue(engine, owner)
        self._breaker = CircuitBreaker(health, metrics, self._random, circuit)
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._caller = Caller(
            settings, self._batches, self._finished, self._breaker, stop, metrics, drain_signal, step, tracer
        )  # fmt: skip
        self._dead_claims_released = False
        self._batches_held, self._results, self._latency_seconds = 0, list[CallResult](), ASSUMED_LATENCY_SECONDS

    def run(self) -> None:
        """Claim calls, have them made and record their results, until the stop."""
        for number in range(self._concurrency):
            threading.Thread(target=self._caller.run, name=f"inference {number + 1}", daemon=True).start()
        backoff, idle_seconds = Backoff(self._random), IDLE_SECONDS
        while not self._stop.is_set():
            try:
                busy = self._cycle()
            except OutboxError as error:
                self._health.degraded(QUEUE_SUBJECT, str(error))
                self._stop.wait(pause_after(error, backoff))
                continue
            except Exception as error:  # noqa: BLE001 - a bug must not end the calls
                self._health.degraded(QUEUE_SUBJECT, report_unexpected(log, QUEUE_SUBJECT, error))
                self._stop.wait(backoff.failed())
                continue
            backoff.succeeded()
            self._health.recovered(QUEUE_SUBJECT)
            if busy:
                idle_seconds = IDLE_SECONDS
            else:
                self._drain_signal.wait(idle_seconds)
                idle_seconds = min(idle_seconds * 2, MAX_IDLE_SECONDS)
        self._finish()

    def _cycle(self) -> bool:
        """Claim, collect and record once; return whether there was, or is, anything to do."""
        if not self._dead_claims_released:
            self._queue.release_claims_of(is_dead)
            self._dead_claims_released = True
        claimed = self._claim()
        if self._batches_held:
            self._collect()
        self._record()
        return claimed or self._batches_held > 0

    def _claim(self) -> bool:
        """Claim as many batches as there is room for; return whether any call was claimed or deferred.

        While the circuit is open nothing is claimed, except a single call as a probe, when it is time for one and no
        batch is held.
        """
        circuit = self._breaker.state
        probe = circuit.may_probe(monotonic())
        if not (circuit.is_closed or (probe and not self._batches_held)):
            return False
        target = 1 if probe else self._target_batches()
        if self._batches_held > target * 2 // 3:  # claim many at a time: each claim costs a transaction
            return False
        if not self._queue.any_due():
            return False
        deadline = monotonic() + CLAIM_MS / 1000 - self._max_call_seconds
        room = target - self._batches_held
        claimed = self._queue.claim(room, 1 if probe else MAX_BATCH_CALLS)
        if claimed:
            self._step("claimed", 0)
        self._batches_held += len(claimed)
        for calls in claimed:
            self._batches.put(Batch(calls, deadline, probe))
        deferred = self._queue.defer_blocked() if len(claimed) < room else 0
        return bool(claimed or deferred)

    def _target_batches(self) -> int:
        if self._drain_signal.is_draining():
            return DRAIN_BATCHES
        return batches_to_hold(self._concurrency, self._latency_seconds)

    def _collect(self) -> None:
        """Collect results until it is time to record them."""
        draining = self._drain_signal.is_draining()
        deadline = monotonic() + (DRAIN_COLLECT_SECONDS if draining else COLLECT_SECONDS)
        low_water = 0 if draining else self._concurrency // 2
        while len(self._results) < MAX_COLLECTED_RESULTS and (left := deadline - monotonic()) > 0:
            if not self._take_finished(left):
                return
            if self._finished.empty() and self._batches_held <= low_water:
                return  # callers run out of work: record and claim again

    def _take_finished(self, seconds: float) -> bool:
        """Take what a caller has finished, waiting up to this long; return whether there was any."""
        try:
            finished = self._finished.get(timeout=seconds)
        except queue.Empty:
            return False
        self._results += finished.results
        self._batches_held -= finished.batch_ended
        return True

    def _record(self) -> None:
        if not self._results:
            return
        self._queue.record_results(self._results)
        latencies = [result.latency_ms for result in self._results if result.latency_ms is not None]
        if latencies:
            self._latency_seconds = sum(latencies) / len(latencies) / 1000
        self._results = []
        self._step("results_recorded", 0)

    def _finish(self) -> None:
        """End the callers, wait for calls in progress, and record them; untried calls are due again at once."""
        for _ in range(self._concurrency):
            self._batches.put(None)
        deadline = monotonic() + MAX_REQUEST_SECONDS
        while self._batches_held and (left := deadline - monotonic()) > 0:
            self._take_finished(left)
        try:
            self._record()
        except OutboxError as error:
            log.info("did not record the last inference results (%s): their calls are repeated", error,
                     action="results_not_recorded")  # fmt: skip
