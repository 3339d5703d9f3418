"""What becomes of a call after an attempt, and how many calls are claimed."""

from random import Random

import pytest

from outbox.states import CallState
from relay.http_client import HttpResult
from relay.inference.policy import (
    MAX_RETRY_SECONDS,
    CallDecision,
    batches_to_hold,
    decide,
)
from testkit.jitter import MaxJitter

RANDOM = MaxJitter()


def test_retries_back_off_up_to_a_cap() -> None:
    """The upper bound doubles with each attempt."""
    waits = [decide(HttpResult(500), attempts, 20, RANDOM).wait_seconds for attempts in range(19)]
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == MAX_RETRY_SECONDS


def test_the_pause_is_jittered_over_its_whole_range() -> None:
    """Calls that failed together are not repeated together."""
    waits = {decide(HttpResult(None, "timed out"), 9, 20, Random(seed)).wait_seconds for seed in range(50)}
    assert min(waits) < 60
    assert max(waits) > 240


def test_the_last_attempt_parks() -> None:
    """The attempt that reaches the maximum is not repeated."""
    assert decide(HttpResult(500), 18, 20, RANDOM).state is CallState.DUE
    assert decide(HttpResult(500), 19, 20, RANDOM) == CallDecision(CallState.PARKED, 20)


def test_success_and_rejection_are_final() -> None:
    """Whatever the number of attempts so far."""
    assert decide(HttpResult(422), 0, 20, RANDOM) == CallDecision(CallState.PARKED, 1)
    assert decide(HttpResult(204), 19, 20, RANDOM) == CallDecision(CallState.DONE, 20)


def test_an_uncharged_failure_never_parks() -> None:
    """While the endpoint is down its failures do not count as the call's own."""
    decision = decide(HttpResult(None), 19, 20, RANDOM, charged=False)
    assert (decision.state, decision.attempts) == (CallState.DUE, 19)


def test_retry_after_is_waited_for_without_charge() -> None:
    """An endpoint that asks to be called later has not failed on this call."""
    result = HttpResult(503, retry_after_seconds=40.0)
    assert decide(result, 19, 20, RANDOM) == CallDecision(CallState.DUE, 19, 40)


@pytest.mark.parametrize(("latency_seconds", "batches"), [(0.005, 16 * 9), (0.1, 16 + 40), (10, 32)])
def test_a_slow_endpoint_has_fewer_batches_claimed_ahead(latency_seconds: float, batches: int) -> None:
    """So that claimed calls are made long before their claim expires."""
    assert batches_to_hold(16, latency_seconds) == batches
