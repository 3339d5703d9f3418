"""The rate limit and the backlog limit."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from app.limits import BacklogLimit
from config.token_bucket import TokenBucket
from testkit.clock import ManualClock
from testkit.waiting import wait_until


def test_a_burst_of_one_second_is_allowed() -> None:
    """After the burst, requests are allowed at the rate; the burst does not grow with idle time."""
    clock = ManualClock()
    limit = TokenBucket(10, clock)
    assert [limit.try_take() for _ in range(12)] == [True] * 10 + [False] * 2
    clock.now += 0.25
    assert [limit.try_take() for _ in range(4)] == [True, True, False, False]
    clock.now += 3600
    assert sum(limit.try_take() for _ in range(100)) == 10


def test_a_rate_below_one_allows_single_requests() -> None:
    """Half a request a second means one every two seconds."""
    clock = ManualClock()
    limit = TokenBucket(0.5, clock)
    assert [limit.try_take(), limit.try_take()] == [True, False]
    clock.now += 2
    assert [limit.try_take(), limit.try_take()] == [True, False]


@given(st.floats(0.1, 100), st.lists(st.floats(0, 2), max_size=200))
def test_the_rate_is_never_exceeded(rate: float, pauses: list[float]) -> None:
    """Whatever the pauses, no more requests pass than the rate and one burst allow."""
    clock = ManualClock()
    limit = TokenBucket(rate, clock)
    allowed = 0
    for pause in pauses:
        clock.now += pause
        allowed += limit.try_take()
    assert allowed <= max(1.0, rate) + rate * sum(pauses) + 1e-6


def test_no_request_waits_for_the_check_of_the_backlog() -> None:
    """While a check runs, the last result stands; its own result counts from then on."""
    started, finish = threading.Event(), threading.Event()

    def pending_at_least(_rows: int) -> bool:
        started.set()
        return finish.wait(60)

    limit = BacklogLimit(pending_at_least, 1)
    assert not limit.reached()
    assert started.wait(60)
    assert not limit.reached()
    finish.set()
    wait_until(limit.reached, "the result of the check counts")
