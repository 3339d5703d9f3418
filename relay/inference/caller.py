"""Makes the calls of claimed batches; runs in ``INFERENCE_CONCURRENCY`` threads."""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from random import Random
from time import monotonic
from typing import NamedTuple

import structlog

from outbox.models import CallResult, InferenceCall
from outbox.sql.inference_queue import BLOCKED_DELAY_MS
from outbox.states import CallState
from relay.drain_signal import DrainSignal
from relay.health import INFERENCE
from relay.http_client import HttpClient, HttpResult
from relay.inference.circuit_breaker import CircuitBreaker
from relay.inference.policy import CallDecision, decide
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

DRAIN_PAUSE_SECONDS = 0.25
"""Pause before each call, of which one at a time is made, while a backlog is drained into Kafka."""


class Batch(NamedTuple):
    """Claimed calls of one interaction, to be made in order by one thread."""

    calls: Sequence[InferenceCall]
    deadline: float
    """By the monotonic clock. No call is begun later: the claim could expire before its response."""
    probe: bool


class Finished(NamedTuple):
    """What a thread reports to the dispatcher."""

    results: Sequence[CallResult]
    batch_ended: bool


class Caller:
    """Takes batches from a queue, makes their calls, and puts the results into another; safe to run in many threads.

    Args:
        settings: name the endpoint.
        batches: to be called; None ends the thread that takes it.
        finished: receives the results.
        breaker: of the endpoint.
        stop: set when the process is to end.
        metrics: count the calls.
        drain_signal: whether a backlog is being drained into Kafka.
        step: called with ``called`` and shard 0 after each call.
    """

    def __init__(
        self,
        settings: RelaySettings,
        batches: SimpleQueue[Batch | None],
        finished: SimpleQueue[Finished],
        breaker: CircuitBreaker,
        stop: threading.Event,
        metrics: RelayMetrics,
        drain_signal: DrainSignal,
        step: Callable[[str, int], None],
    ) -> None:
        self._url, self._max_attempts = settings.inference_url or "", settings.inference_max_attempts
        self._batches, self._finished, self._breaker = batches, finished, breaker
        self._stop, self._metrics, self._drain_signal, self._step = stop, metrics, drain_signal, step
        token = settings.inference_token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._client = HttpClient(settings.inference_concurrency, headers, ca_location=settings.http_ca_location)
        self._random = Random()  # noqa: S311 - jitter, not cryptography
        self._drain_turn = threading.Lock()

    def run(self) -> None:
        """Call batches until there is a None in the queue."""
        while (batch := self._batches.get()) is not None:
            try:
                self._call_batch(batch)
            except Exception:
                log.exception("unexpected error in an inference call; its claim expires", action="unexpected")
                self._finished.put(Finished([], batch_ended=True))

    def _call_batch(self, batch: Batch) -> None:
        """Make the calls in order; give back those behind one that has to be repeated."""
        for number, call in enumerate(batch.calls, start=1):
            remaining = batch.calls[number:]
            if not self._await_turn(batch):
                self._finished.put(Finished([_untried(left) for left in (call, *remaining)], batch_ended=True))
                return
            result = self._call(call, probe=batch.probe)
            self._step("called", 0)
            if result.state == CallState.DUE:
                blocked = [_untried(left, BLOCKED_DELAY_MS) for left in remaining]
                self._finished.put(Finished([result, *blocked], batch_ended=True))
                return
            self._finished.put(Finished([result], batch_ended=not remaining))

    def _await_turn(self, batch: Batch) -> bool:
        """Wait while a backlog is drained; return whether the batch's next call may be made."""
        if self._may_call(batch):
            self._throttle_during_drain()
        return self._may_call(batch)  # the wait may have passed the deadline, or the circuit may have opened

    def _may_call(self, batch: Batch) -> bool:
        if self._stop.is_set() or monotonic() > batch.deadline:
            return False
        return batch.probe or self._breaker.state.is_closed

    def _throttle_during_drain(self) -> None:
        if self._drain_signal.is_draining():
            with self._drain_turn:
                if self._drain_signal.is_draining():
                    self._stop.wait(DRAIN_PAUSE_SECONDS)

    def _call(self, call: InferenceCall, *, probe: bool) -> CallResult:
        began = monotonic()
        result = self._request(call)
        charged = self._breaker.record(result, probe=probe)
        decision = decide(result, call.attempts, self._max_attempts, self._random, charged=charged)
        seconds = monotonic() - began
        self._metrics.call_seconds.observe(seconds)
        self._report(call, result, decision)
        return CallResult(
            row_id=call.row_id,
            state=decision.state.value,
            attempts=decision.attempts,
            status=result.status,
            error=None if decision.state is CallState.DONE else result.error,
            latency_ms=round(seconds * 1000),
            wait_ms=round(decision.wait_seconds * 1000),
            claimed_until_ms=call.claimed_until_ms,
        )

    def _request(self, call: InferenceCall) -> HttpResult:
        headers = {"Idempotency-Key": str(call.row_id)}
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        body = {"interactionId": call.interaction_id, "timestamp": call.timestamp_ms}
        return self._client.request("POST", self._url, json=body, headers=headers)

    def _report(self, call: InferenceCall, result: HttpResult, decision: CallDecision) -> None:
        retried = decision.state is CallState.DUE
        self._metrics.inference_calls.labels("retried" if retried else decision.state.value).inc()
        if retried:
            self._metrics.retries.labels(INFERENCE, result.error or "").inc()
        elif decision.state is CallState.PARKED:
            log.error("parked the inference call of row %d: %s", call.row_id, result.error, action="call_parked")


def _untried(call: InferenceCall, wait_ms: int = 0) -> CallResult:
    """Give a call back as it was claimed, due again after ``wait_ms``."""
    return CallResult(
        row_id=call.row_id,
        state=CallState.DUE.value,
        attempts=call.attempts,
        status=None,
        error=None,
        latency_ms=None,
        wait_ms=wait_ms,
        claimed_until_ms=call.claimed_until_ms,
        tried=False,
    )
