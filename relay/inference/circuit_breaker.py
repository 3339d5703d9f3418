"""Stops calling an inference endpoint that keeps failing.

While the circuit is closed, calls are made. Sustained failure opens it: no calls are made until a pause has passed,
then one call probes the endpoint. If the probe succeeds the circuit closes; if it fails a longer pause begins.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from time import monotonic

from relay.backoff import jittered_delay
from relay.health import INFERENCE, Health
from relay.http_client import HttpResult, Outcome, classify
from relay.metrics import RelayMetrics

MAX_FAILURES = 5
MIN_FAILING_SECONDS = 10.0
"""The circuit opens after this many consecutive failures that span at least this long."""
MAX_BURST_FAILURES = 50
"""The circuit opens after this many consecutive failures, however quickly they came."""
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 2.0, 30.0


@dataclass(frozen=True, slots=True)
class CircuitState:
    """State of a circuit. Times are seconds of a monotonic clock."""

    failures: int = 0
    """Consecutive failures while closed."""
    failing_since: float = 0.0
    pauses: int = 0
    """Pauses since the last success; 0 while closed."""
    open_until: float = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether calls are made."""
        return not self.pauses

    def may_probe(self, now: float) -> bool:
        """Whether the circuit is open and its pause has passed."""
        return not self.is_closed and now >= self.open_until


def after_failure(
    state: CircuitState, now: float, random: Random, retry_after_seconds: float | None = None
) -> CircuitState:
    """The state after a failed call or probe.

    Args:
        state: before the failure.
        now: seconds of the monotonic clock.
        random: source of jitter.
        retry_after_seconds: the endpoint's ``Retry-After``, which opens the circuit at once.
    """
    failures = state.failures + 1
    since = state.failing_since if state.failures else now
    sustained = failures >= MAX_FAILURES and now - since >= MIN_FAILING_SECONDS
    if state.is_closed and retry_after_seconds is None and not sustained and failures < MAX_BURST_FAILURES:
        return replace(state, failures=failures, failing_since=since)
    pauses = state.pauses + 1
    # Only half of the pause is jittered, so an endpoint that is just starting is not probed at once.
    pause = min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * 2.0 ** min(pauses - 1, 32)) / 2
    pause += jittered_delay(pauses, random, PAUSE_SECONDS / 2, MAX_PAUSE_SECONDS / 2)
    return CircuitState(failures, since, pauses, now + max(pause, retry_after_seconds or 0.0))


class CircuitBreaker:
    """The circuit of one endpoint; safe to use from many threads.

    Args:
        health: shows an open circuit.
        metrics: export whether the circuit is open.
        random: source of jitter.
        state: initial state.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        health: Health,
        metrics: RelayMetrics,
        random: Random,
        state: CircuitState | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._health, self._metrics, self._random, self._clock = health, metrics, random, clock
        self._lock = threading.Lock()
        self._state = state or CircuitState()
        self._metrics.circuit_open.set(not self._state.is_closed)

    @property
    def state(self) -> CircuitState:
        """The current state."""
        with self._lock:
            return self._state

    def record(self, result: HttpResult, *, probe: bool) -> bool:
        """Take a call's result into account; return whether a failure counts as the call's own.

        While the circuit is open only the probe counts: calls already under way when it opened say nothing new.
        """
        works = classify(result) is not Outcome.RETRY
        with self._lock:
            before = self._state
            if not (before.is_closed or probe):
                return False
            if works:
                self._state = CircuitState()
            else:
                self._state = after_failure(before, self._clock(), self._random, result.retry_after_seconds)
            is_closed = self._state.is_closed
        self._metrics.circuit_open.set(not is_closed)
        if works:
            self._health.recovered(INFERENCE)
        elif not is_closed:
            remedy = "calls wait until it recovers; start it, or correct INFERENCE_URL"
            self._health.degraded(INFERENCE, f"the endpoint is failing ({result.error}): {remedy}")
        return before.is_closed
