"""The circuit breaker of the inference stage: pure, from state and event to state.

Closed, calls are made. After sustained failure it opens: nothing is called until a pause has passed,
then one call probes. Its success closes the circuit, its failure begins a longer pause.
"""

from dataclasses import dataclass, replace
from random import Random

from relay.backoff import jittered_delay

FAILURES, FAILING_SECONDS = 5, 10.0
"""Opens after this many failures in a row, once they have lasted this long."""
FAILURES_AT_ONCE = 50
"""Opens after this many failures in a row however fast they came."""
PAUSE_SECONDS, PAUSE_CAP_SECONDS = 2.0, 30.0


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """Whether the endpoint is called; times are those of a monotonic clock, in seconds."""

    failures: int = 0
    """In a row, while closed."""
    failing_since: float = 0.0
    opened: int = 0
    """Pauses since the last success: 0 while closed."""
    open_until: float = 0.0

    @property
    def closed(self) -> bool:
        """Whether calls are made at will."""
        return not self.opened

    def may_probe(self, now: float) -> bool:
        """Whether it is time for the one call that decides."""
        return bool(self.opened) and now >= self.open_until


def succeeded(_circuit: CircuitBreaker) -> CircuitBreaker:
    """A call that was made while the circuit was closed, or the probe, was answered for good, be it with a refusal."""
    return CircuitBreaker()


def failed(
    circuit: CircuitBreaker, now: float, random: Random, retry_after_seconds: float | None = None
) -> CircuitBreaker:
    """A call that was made while the circuit was closed failed, or the probe did.

    Args:
        circuit: before.
        now: of the monotonic clock.
        random: source of the pause's jitter.
        retry_after_seconds: when the endpoint asked to be called again: asked for, it is left alone at once.
    """
    failures = circuit.failures + 1
    since = circuit.failing_since if circuit.failures else now
    sustained = failures >= FAILURES and now - since >= FAILING_SECONDS
    if circuit.closed and retry_after_seconds is None and not sustained and failures < FAILURES_AT_ONCE:
        return replace(circuit, failures=failures, failing_since=since)
    opened = circuit.opened + 1
    # Half of the pause is certain: a jitter near zero would probe an endpoint that is just coming up.
    pause = min(PAUSE_CAP_SECONDS, PAUSE_SECONDS * 2.0 ** min(opened - 1, 32)) / 2
    pause += jittered_delay(opened, random, PAUSE_SECONDS / 2, PAUSE_CAP_SECONDS / 2)
    return CircuitBreaker(failures, since, opened, now + max(pause, retry_after_seconds or 0.0))
