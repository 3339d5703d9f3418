"""What an answer means, how long to wait, and when the circuit opens and closes: pure decisions."""

import time
from email.utils import formatdate
from random import Random

import pytest

from outbox.states import CallState
from relay.http_client import RETRY_AFTER_CAP_SECONDS, HttpResult, Outcome, classify, retry_after_seconds
from relay.inference import circuit_breaker
from relay.inference.circuit_breaker import (
    FAILING_SECONDS,
    FAILURES,
    FAILURES_AT_ONCE,
    PAUSE_CAP_SECONDS,
    CircuitBreaker,
)
from relay.inference.worker import RETRY_CAP_SECONDS, CallDecision, decide, runs_to_hold


class Highest(Random):
    """Jitter at its upper bound."""

    def uniform(self, _a: float, b: float) -> float:
        """The upper bound."""
        return b


RANDOM = Highest()


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        *((status, Outcome.DONE) for status in (200, 201, 202, 204, 299)),
        *((status, Outcome.LATER) for status in (None, 103, 408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Outcome.REFUSED) for status in (301, 302, 307, 400, 401, 403, 404, 409, 410, 413, 422, 499)),
    ],
)
def test_each_status_has_its_meaning(status: int | None, meant: Outcome) -> None:
    """2xx is done, what may pass is for later, everything else is final; a redirect is not followed."""
    assert classify(HttpResult(status)) is meant


def test_retry_after_is_seconds_or_a_date_and_capped() -> None:
    """Both forms of RFC 9110; what is neither counts as absent, the past as now."""
    now = 1_800_000_000.0
    assert retry_after_seconds("7", now) == 7
    assert retry_after_seconds(" 0 ", now) == 0
    assert retry_after_seconds("999999999999999999", now) == RETRY_AFTER_CAP_SECONDS
    assert retry_after_seconds(formatdate(now + 30, usegmt=True), now) == 30
    assert retry_after_seconds(formatdate(now - 30, usegmt=True), now) == 0
    assert retry_after_seconds(formatdate(now + 9e6, usegmt=True), now) == RETRY_AFTER_CAP_SECONDS
    for unreadable in (None, "", "soon", "-1", "1.5", "\u0663", "Wed, 99 Nov 2026"):
        assert retry_after_seconds(unreadable, now) in (None, 3.0), unreadable


def test_a_date_without_a_zone_is_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the old forms of RFC 9110 are, wherever the relay runs."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        for given in ("Sun Nov  6 08:49:37 1994", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 -0000"):
            assert retry_after_seconds(given, 784_111_777 - 30) == 30, given
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_failing_call_waits_longer_each_time_up_to_the_cap_and_is_parked_in_the_end() -> None:
    """Exponential, capped; the attempt that reaches the maximum parks."""
    waits = [decide(HttpResult(500), attempts, 20, RANDOM).wait_seconds for attempts in range(19)]
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == RETRY_CAP_SECONDS
    assert decide(HttpResult(500), 19, 20, RANDOM) == CallDecision(CallState.PARKED, 20)
    jitter = {decide(HttpResult(None, "no answer in time"), 9, 20, Random(seed)).wait_seconds for seed in range(50)}
    assert min(jitter) < 60
    assert max(jitter) > 240


def test_a_final_refusal_parks_at_once_and_success_ends_it() -> None:
    """Whatever the attempts."""
    assert decide(HttpResult(422), 0, 20, RANDOM) == CallDecision(CallState.PARKED, 1)
    assert decide(HttpResult(204), 19, 20, RANDOM) == CallDecision(CallState.DONE, 20)


def test_what_says_nothing_about_the_call_is_not_charged() -> None:
    """An endpoint that is down, or asks to be called later, parks nothing however often it is asked."""
    assert decide(HttpResult(None), 19, 20, RANDOM, charged=False).state is CallState.DUE
    assert decide(HttpResult(None), 19, 20, RANDOM, charged=False).attempts == 19
    assert decide(HttpResult(503, retry_after_seconds=40.0), 19, 20, RANDOM) == CallDecision(CallState.DUE, 19, 40)


def fail(times: int, every_seconds: float, state: CircuitBreaker | None = None) -> CircuitBreaker:
    """The circuit after so many failures."""
    state = state or CircuitBreaker()
    for number in range(times):
        state = circuit_breaker.failed(state, number * every_seconds, RANDOM)
    return state


def test_the_circuit_opens_on_sustained_failure_only() -> None:
    """A few failures in a row over some time, or many at once; a success in between starts anew."""
    assert fail(FAILURES, FAILING_SECONDS / 10).closed
    assert not fail(FAILURES, FAILING_SECONDS).closed
    assert fail(FAILURES_AT_ONCE - 1, 0).closed
    assert not fail(FAILURES_AT_ONCE, 0).closed
    assert fail(FAILURES_AT_ONCE - 1, 0, circuit_breaker.succeeded(fail(FAILURES_AT_ONCE - 1, 0))).closed


def test_an_open_circuit_probes_after_a_pause_that_grows_to_its_cap() -> None:
    """Each failed probe begins a longer pause, each is jittered, a success closes it."""
    state, pauses = fail(FAILURES_AT_ONCE, 0), []
    for _ in range(8):
        now = state.open_until
        assert not state.may_probe(now - 0.01)
        assert state.may_probe(now)
        state = circuit_breaker.failed(state, now, RANDOM)
        pauses.append(state.open_until - now)
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_CAP_SECONDS
    assert circuit_breaker.succeeded(state) == CircuitBreaker()
    assert not CircuitBreaker().may_probe(1e9)


def test_who_says_when_to_come_back_is_left_alone_until_then() -> None:
    """One Retry-After opens the circuit at once, for as long; one of 0 for a short pause all the same."""
    assert circuit_breaker.failed(CircuitBreaker(), 100, RANDOM, 60.0).open_until == 160
    assert 100 < circuit_breaker.failed(CircuitBreaker(), 100, RANDOM, 0.0).open_until < 103


def test_fewer_calls_are_claimed_ahead_the_slower_the_answers() -> None:
    """So that what is claimed is tried long before its claim runs out."""
    assert runs_to_hold(16, 0.005) == 16 * 9
    assert runs_to_hold(16, 0.1) == 16 + 40
    assert runs_to_hold(16, 10) == 32
