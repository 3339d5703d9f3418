"""When CXone may be called."""

import pytest

from relay.backoff import Backoff
from relay.enrichment.throttle import OUTAGE_SECONDS, Throttle
from testkit.clock import ManualClock
from testkit.jitter import MaxJitter


@pytest.fixture
def clock() -> ManualClock:
    """The throttle's clock."""
    return ManualClock()


@pytest.fixture
def throttle(clock: ManualClock) -> Throttle:
    """Ten requests a second, and pauses of two seconds after failures."""
    random = MaxJitter()
    return Throttle(10, random, Backoff(random, base_seconds=2.0, cap_seconds=2.0), clock)


def test_requests_may_begin_until_one_fails(throttle: Throttle, clock: ManualClock) -> None:
    """Then no new one begins before the backoff is over; requests already begun are not held back."""
    assert throttle.pause_seconds() == 0
    throttle.failed(0.0, is_up=False)
    assert throttle.pause_seconds() == 2
    assert not throttle.is_within_retry_after()
    clock.now += 2
    assert throttle.pause_seconds() == 0


def test_a_success_ends_the_backoff_but_not_retry_after(throttle: Throttle, clock: ManualClock) -> None:
    """A response to an earlier request does not shorten the time that CXone asked for."""
    throttle.failed(5.0, is_up=True)
    throttle.succeeded()
    assert throttle.pause_seconds() == 5
    assert throttle.is_within_retry_after()
    clock.now += 5
    assert throttle.pause_seconds() == 0
    assert not throttle.is_within_retry_after()


def test_cxone_is_down_after_failing_for_long_enough(throttle: Throttle, clock: ManualClock) -> None:
    """Without a success in between."""
    throttle.failed(0.0, is_up=False)
    clock.now += OUTAGE_SECONDS - 0.1
    throttle.failed(0.0, is_up=False)
    assert not throttle.is_down()
    clock.now += 0.1
    assert throttle.is_down()


def test_a_success_starts_the_outage_clock_again(throttle: Throttle, clock: ManualClock) -> None:
    """The next failure is not added to the previous ones."""
    throttle.failed(0.0, is_up=False)
    throttle.succeeded()
    clock.now += OUTAGE_SECONDS
    assert not throttle.is_down()
    throttle.failed(0.0, is_up=False)
    assert not throttle.is_down()


def test_a_rate_limit_is_not_an_outage(throttle: Throttle, clock: ManualClock) -> None:
    """CXone works."""
    throttle.failed(0.0, is_up=True)
    clock.now += OUTAGE_SECONDS
    assert not throttle.is_down()


def test_requests_beyond_the_rate_wait_their_turn(throttle: Throttle) -> None:
    """After a burst of one second's worth."""
    waits = [throttle.reserve() for _ in range(12)]
    assert waits == pytest.approx([0.0] * 10 + [0.1, 0.2])
