"""When the circuit opens and closes, and which calls decide."""

import pytest
from prometheus_client import CollectorRegistry

from relay.health import INFERENCE, Health
from relay.http_client import HttpResult
from relay.inference.circuit_breaker import (
    MAX_BURST_FAILURES,
    MAX_FAILURES,
    MAX_PAUSE_SECONDS,
    MIN_FAILING_SECONDS,
    CircuitBreaker,
    CircuitState,
    after_failure,
)
from relay.metrics import RelayMetrics
from testkit.clock import ManualClock
from testkit.jitter import MaxJitter

RANDOM = MaxJitter()


def fail(times: int, every_seconds: float) -> CircuitState:
    """The state after so many failures."""
    state = CircuitState()
    for number in range(times):
        state = after_failure(state, number * every_seconds, RANDOM)
    return state


@pytest.mark.parametrize(
    ("failures", "every_seconds", "is_closed"),
    [
        (MAX_FAILURES, MIN_FAILING_SECONDS / 10, True),
        (MAX_FAILURES, MIN_FAILING_SECONDS, False),
        (MAX_BURST_FAILURES - 1, 0, True),
        (MAX_BURST_FAILURES, 0, False),
    ],
)
def test_only_sustained_failure_opens_the_circuit(failures: int, every_seconds: float, is_closed: bool) -> None:  # noqa: FBT001
    """A few consecutive failures over some time, or many at once."""
    assert fail(failures, every_seconds).is_closed == is_closed


def test_each_failed_probe_begins_a_longer_pause() -> None:
    """Up to a cap."""
    state, pauses = fail(MAX_BURST_FAILURES, 0), []
    for _ in range(8):
        now = state.open_until
        assert not state.may_probe(now - 0.01)
        assert state.may_probe(now)
        state = after_failure(state, now, RANDOM)
        pauses.append(state.open_until - now)
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_SECONDS


def test_a_closed_circuit_does_not_probe() -> None:
    """It makes every call."""
    assert not CircuitState().may_probe(1e9)


def test_retry_after_opens_the_circuit_at_once() -> None:
    """For as long as asked; a ``Retry-After`` of 0 still begins a short pause."""
    assert after_failure(CircuitState(), 100, RANDOM, 60.0).open_until == 160
    assert 100 < after_failure(CircuitState(), 100, RANDOM, 0.0).open_until < 103


class Circuit:
    """A circuit breaker whose clock the test sets, and what it reports."""

    def __init__(self) -> None:
        self.clock, self.health, self._registry = ManualClock(), Health(), CollectorRegistry()
        self.breaker = CircuitBreaker(self.health, RelayMetrics(self._registry), RANDOM, clock=self.clock)

    def open_gauge(self) -> float | None:
        """Value of the exported metric."""
        return self._registry.get_sample_value("outbox_inference_circuit_open")


def test_a_success_in_between_starts_the_count_again() -> None:
    """Failures have to be consecutive."""
    circuit = Circuit()
    for _ in range(2):
        for _ in range(MAX_BURST_FAILURES - 1):
            assert circuit.breaker.record(HttpResult(500, "HTTP 500"), probe=False)
        assert circuit.breaker.record(HttpResult(200), probe=False)
        assert circuit.breaker.state == CircuitState()


@pytest.mark.parametrize(
    "late",
    [HttpResult(200), HttpResult(422, "HTTP 422"), HttpResult(500, "HTTP 500"), HttpResult(429, "HTTP 429", 1.0)],
)
def test_calls_under_way_when_the_circuit_opened_change_nothing(late: HttpResult) -> None:
    """No pause ends by them, none gets longer, and their failures are not charged."""
    circuit = Circuit()
    assert circuit.breaker.record(HttpResult(429, "HTTP 429", 60.0), probe=False)
    opened, condition = circuit.breaker.state, circuit.health.conditions()[INFERENCE]
    assert opened.open_until == circuit.clock.now + 60
    assert "HTTP 429" in condition
    assert not circuit.breaker.record(late, probe=False)
    assert circuit.breaker.state == opened
    assert circuit.health.conditions()[INFERENCE] == condition
    assert circuit.open_gauge() == 1


def test_the_probe_decides() -> None:
    """Its failure is not charged and begins another pause; its success closes the circuit."""
    circuit = Circuit()
    circuit.breaker.record(HttpResult(429, "HTTP 429", 60.0), probe=False)
    assert not circuit.breaker.record(HttpResult(500, "HTTP 500"), probe=True)
    assert circuit.breaker.state.pauses == 2
    circuit.breaker.record(HttpResult(200), probe=True)
    assert circuit.breaker.state.is_closed
    assert circuit.health.conditions() == {}
    assert circuit.open_gauge() == 0


def test_a_rejected_probe_closes_the_circuit() -> None:
    """The endpoint works: it has rejected this call."""
    circuit = Circuit()
    circuit.breaker.record(HttpResult(503, "HTTP 503", 1.0), probe=False)
    circuit.breaker.record(HttpResult(422, "HTTP 422"), probe=True)
    assert circuit.breaker.state.is_closed
