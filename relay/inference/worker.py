"""After the commit: call the inference endpoint for each sent row, at least once, out of the way of Kafka.

One thread claims and settles, in batches; ``INFERENCE_CONCURRENCY`` threads call. What they hold is
bounded, however many calls are due. While the endpoint fails the circuit is open and nothing is charged.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from time import monotonic
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Engine

from outbox.errors import OutboxError
from outbox.inference_queue import CLAIM_MS, MAX_BATCH_CALLS, InferenceQueue
from outbox.models import CallResult, InferenceCall
from outbox.sql.inference_queue import BLOCKED_DELAY_MS
from outbox.states import CallState
from relay.backoff import Backoff, jittered_delay, pause_after
from relay.drain_signal import DrainSignal
from relay.errors import MisconfiguredError
from relay.health import INFERENCE, Health
from relay.http_client import LONGEST_SECONDS, Client, HttpResult, Outcome, classify
from relay.inference import circuit_breaker
from relay.inference.circuit_breaker import CircuitBreaker
from relay.metrics import RelayMetrics
from relay.process_lock import is_dead
from relay.settings import RelaySettings

log = structlog.get_logger(__name__)

IDLE_SECONDS = (0.05, 1.0)
"""First and longest pause between two looks for what is due; a mark of this relay ends it."""
SETTLE_SECONDS, SETTLE_RESULTS = 0.05, 500
"""Results wait this long, or for this many, to be settled together."""
AHEAD_SECONDS = 0.25
"""Calls are claimed ahead for about this long."""
MOST_AHEAD = 8
"""Runs claimed ahead for each thread, at most."""
RUSH_PAUSE_SECONDS, RUSH_RUNS, RUSH_SETTLE_SECONDS = 0.25, 4, 1.0
"""While a backlog is drained into Kafka that goes first, and calls do not stand still: one at a time with pauses, few
claimed ahead, and settled seldom."""
RETRY_BASE_SECONDS, RETRY_CAP_SECONDS = 1.0, 300.0


class CallDecision(NamedTuple):
    """What becomes of a call that was tried."""

    state: CallState
    attempts: int
    wait_seconds: float = 0.0


def decide(
    answer: HttpResult, attempts: int, max_attempts: int, random: Random, *, charged: bool = True
) -> CallDecision:
    """What to do with a call after its latest answer.

    Args:
        answer: of the latest attempt.
        attempts: charged before it.
        max_attempts: charged attempts after which the call is parked.
        random: source of the jitter.
        charged: the endpoint works; while it is down, its failures say nothing about the call.
    """
    meant = classify(answer)
    if meant is Outcome.DONE:
        return CallDecision(CallState.DONE, attempts + 1)
    if meant is Outcome.REFUSED:
        return CallDecision(CallState.PARKED, attempts + 1)
    if answer.retry_after_seconds is not None:  # it said when, which is not a failure of the call
        return CallDecision(CallState.DUE, attempts, answer.retry_after_seconds)
    attempts += charged
    if charged and attempts >= max_attempts:
        return CallDecision(CallState.PARKED, attempts)
    wait = jittered_delay(max(1, attempts), random, RETRY_BASE_SECONDS, RETRY_CAP_SECONDS)
    return CallDecision(CallState.DUE, attempts, wait)


def runs_to_hold(concurrency: int, latency_seconds: float) -> int:
    """How many runs are to be claimed: one for each thread, and some ahead, fewer the slower the answers."""
    ahead = min(MOST_AHEAD, max(1.0, AHEAD_SECONDS / max(latency_seconds, 0.001)))
    return concurrency + round(concurrency * ahead)


class Run(NamedTuple):
    """Claimed calls of one interaction, to be tried in order by one thread."""

    calls: Sequence[InferenceCall]
    deadline: float
    """No call is begun after this moment: its claim could run out."""
    probe: bool


class Finished(NamedTuple):
    """What a thread has to tell: results, and whether its run has ended."""

    results: Sequence[CallResult]
    run_ended: bool


class InferenceWorker:
    """Calls the endpoint for rows that are due, ``INFERENCE_CONCURRENCY`` at a time.

    Args:
        settings: of the relay.
        engine: of the outbox.
        owner: who claims.
        stop: set when the process is to end.
        health: told while the endpoint fails.
        metrics: of the relay.
        marks: of the shards.
        step: told ``claimed``, ``called`` and ``results_recorded`` as they are reached, with shard 0.

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
    ) -> None:
        self._url = settings.inference_url or ""
        insist_on_allowed_host(self._url, settings.inference_allowed_hosts)
        self._settings, self._stop, self._health, self._metrics = settings, stop, health, metrics
        self._marks, self._step = drain_signal, partial(_told, step)
        self._calls = InferenceQueue(engine, owner)
        self._random = Random()  # noqa: S311 - jitter, not cryptography
        token = settings.inference_token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._client = Client(settings.inference_concurrency, headers, ca_location=settings.http_ca_location)
        self._lock = threading.Lock()
        self._circuit = CircuitBreaker()
        self._rush = threading.Lock()
        self._ready: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._tried: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._held, self._latency_seconds, self._unsettled = 0, AHEAD_SECONDS, list[CallResult]()

    # Claiming and settling ----------------------------------------------------------------------------

    def run(self) -> None:
        """Claim, have called, settle, until the stop. What is claimed and not settled comes back by itself."""
        concurrency = self._settings.inference_concurrency
        threads = [
            threading.Thread(target=self._call_runs, name=f"inference {n + 1}", daemon=True) for n in range(concurrency)
        ]
        for thread in threads:
            thread.start()
        backoff, idle, released = Backoff(self._random), IDLE_SECONDS[0], False
        while not self._stop.is_set():
            try:
                if not released:
                    self._calls.release_claims_of(is_dead)
                    released = True
                self._settle()
                claimed = self._claim()
            except OutboxError as error:
                self._health.degraded(f"{INFERENCE} calls", str(error))
                self._stop.wait(pause_after(error, backoff))
                continue
            except Exception as error:
                log.exception("the inference stage met an error nobody expected", action="unexpected")
                reason = f"unexpected {type(error).__name__}: see the log; please report it"
                self._health.degraded(f"{INFERENCE} calls", reason)
                self._stop.wait(backoff.failed())
                continue
            backoff.succeeded()
            self._health.recovered(f"{INFERENCE} calls")
            if self._held:
                self._gather()
            if self._held or claimed:
                idle = IDLE_SECONDS[0]
            else:
                self._marks.wait(idle)
                idle = min(idle * 2, IDLE_SECONDS[1])
        self._end(len(threads))

    def _claim(self) -> bool:
        """Claim what there is room for: one call alone if it is time to probe, nothing while the circuit is open."""
        with self._lock:
            state = self._circuit
        self._metrics.circuit_open.set(not state.closed)
        probe = state.may_probe(monotonic())
        wanted = 1 if probe else self._runs_to_hold()
        # Refilled when a third is gone, so that a claim is worth its transaction.
        if not (state.closed or (probe and not self._held)) or self._held > wanted * 2 // 3:
            return False
        if not self._calls.any_due():
            return False
        deadline = monotonic() + CLAIM_MS / 1000 - LONGEST_SECONDS
        limit = wanted - self._held
        runs = self._calls.claim(limit, 1 if probe else MAX_BATCH_CALLS)
        if runs:
            self._step("claimed")
        self._held += len(runs)
        for calls in runs:
            self._ready.put(Run(calls, deadline, probe))
        moved = self._calls.defer_blocked() if len(runs) < limit else 0
        return bool(runs or moved)

    def _runs_to_hold(self) -> int:
        if self._marks.is_draining():
            return RUSH_RUNS
        return runs_to_hold(self._settings.inference_concurrency, self._latency_seconds)

    def _gather(self) -> None:
        """Collect results until it is time to settle."""
        is_draining = self._marks.is_draining()
        until = monotonic() + (RUSH_SETTLE_SECONDS if is_draining else SETTLE_SECONDS)
        few = 0 if is_draining else self._settings.inference_concurrency // 2
        while len(self._unsettled) < SETTLE_RESULTS and (left := until - monotonic()) > 0:
            try:
                tried = self._tried.get(timeout=left)
            except queue.Empty:
                return
            self._take(tried)
            if self._tried.empty() and self._held <= few:
                return  # threads run dry: settle and refill at once

    def _take(self, tried: Finished) -> None:
        self._unsettled += tried.results
        self._held -= tried.run_ended

    def _settle(self) -> None:
        if not self._unsettled:
            return
        self._calls.record_results(self._unsettled)
        times = [r.latency_ms for r in self._unsettled if r.latency_ms is not None]
        if times:
            self._latency_seconds = sum(times) / len(times) / 1000
        self._unsettled = []
        self._step("results_recorded")

    def _end(self, threads: int) -> None:
        """The calls in hand end, the others are given back."""
        for _ in range(threads):
            self._ready.put(None)
        until = monotonic() + LONGEST_SECONDS
        while self._held and (left := until - monotonic()) > 0:
            try:
                self._take(self._tried.get(timeout=left))
            except queue.Empty:
                break
        try:
            self._settle()
        except OutboxError:
            log.info("the last inference calls could not be settled: they are made again", action="calls_left")

    # Calling ------------------------------------------------------------------------------------------

    def _call_runs(self) -> None:
        while (run := self._ready.get()) is not None:
            try:
                self._call_run(run)
            except Exception:
                log.exception("an inference call met an error nobody expected", action="unexpected")
                self._tried.put(Finished([], run_ended=True))  # its claim runs out

    def _call_run(self, run: Run) -> None:
        """Try the calls of an interaction in order; behind one that is due again, the rest is given back."""
        results: list[CallResult] = []
        for number, call in enumerate(run.calls):
            if self._may_begin(run):
                self._throttle_during_drain()
            if not self._may_begin(run):  # looked at again, for others may have gone first
                results += [_given_back(left, 0) for left in run.calls[number:]]
                break
            result = self._try(call, probe=run.probe)
            self._step("called")
            if result.state == CallState.DUE:
                results += [result, *(_given_back(left, BLOCKED_DELAY_MS) for left in run.calls[number + 1 :])]
                break
            if number == len(run.calls) - 1:
                results.append(result)
            else:
                self._tried.put(Finished([result], run_ended=False))
        self._tried.put(Finished(results, run_ended=True))

    def _may_begin(self, run: Run) -> bool:
        if self._stop.is_set() or monotonic() > run.deadline:
            return False
        with self._lock:
            return run.probe or self._circuit.closed

    def _throttle_during_drain(self) -> None:
        """While a backlog is drained, one call at a time, with pauses."""
        if self._marks.is_draining():
            with self._rush:
                if self._marks.is_draining():
                    self._stop.wait(RUSH_PAUSE_SECONDS)

    def _try(self, call: InferenceCall, *, probe: bool) -> CallResult:
        began = monotonic()
        answer = self._ask(call)
        charged = self._judge(answer, probe=probe)
        decided = decide(
            answer, call.attempts, self._settings.inference_max_attempts, self._random, charged=charged
        )  # fmt: skip
        outcome = "retried" if decided.state is CallState.DUE else decided.state.value
        self._metrics.inference_calls.labels(outcome).inc()
        if decided.state is CallState.DUE:
            self._metrics.retries.labels(INFERENCE, answer.error or "").inc()
        elif decided.state is CallState.PARKED:
            log.error("the inference call of row %d is parked: %s", call.row_id, answer.error, action="call_parked")
        return CallResult(
            call.row_id,
            decided.state.value,
            decided.attempts,
            answer.status,
            None if decided.state is CallState.DONE else answer.error,
            round((monotonic() - began) * 1000),
            round(decided.wait_seconds * 1000),
            call.claimed_until_ms,
        )

    def _ask(self, call: InferenceCall) -> HttpResult:
        headers = {"Idempotency-Key": str(call.row_id)}
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        body = {"interactionId": call.interaction_id, "timestamp": call.timestamp_ms}
        return self._client.request("POST", self._url, json=body, headers=headers)

    def _judge(self, answer: HttpResult, *, probe: bool) -> bool:
        """Tell the circuit; whether a failure counts as the call's own."""
        works = classify(answer) is not Outcome.LATER
        with self._lock:
            before = self._circuit
            if not (before.closed or probe):  # under way when the circuit opened: it says nothing new
                return False
            if works:
                after = circuit_breaker.succeeded(before)
            else:
                after = circuit_breaker.failed(before, monotonic(), self._random, answer.retry_after_seconds)
            self._circuit = after
        self._metrics.circuit_open.set(not after.closed)
        if works:
            self._health.recovered(INFERENCE)
        elif not after.closed:
            cure = "its calls wait until it answers: start it, or correct INFERENCE_URL"
            self._health.degraded(INFERENCE, f"the endpoint fails ({answer.error}): {cure}")
        return before.closed


def insist_on_allowed_host(url: str, allowed: str | None) -> None:
    """Raise ``MisconfiguredError`` if the URL's host is not among the allowed ones (None: any)."""
    host = urlsplit(url).hostname
    if allowed and host not in {name.strip().lower() for name in allowed.split(",")}:
        raise MisconfiguredError(f"INFERENCE_URL names host {host}, which is not in INFERENCE_ALLOWED_HOSTS")


def _given_back(call: InferenceCall, wait_ms: int) -> CallResult:
    return CallResult(
        call.row_id, CallState.DUE.value, call.attempts, None, None, None, wait_ms, call.claimed_until_ms, tried=False
    )


def _told(step: Callable[[str, int], None], name: str) -> None:
    step(name, 0)
