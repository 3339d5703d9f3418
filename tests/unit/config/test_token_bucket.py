"""The rate limit as arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.token_bucket import TokenBucket
from testkit.clock import ManualClock


def test_reserved_tokens_are_handed_out_with_the_wait_for_them() -> None:
    """After a burst of one second's worth; reservations count against what comes later."""
    clock = ManualClock()
    bucket = TokenBucket(5, clock)
    assert [bucket.reserve() for _ in range(7)] == pytest.approx([0, 0, 0, 0, 0, 0.2, 0.4])
    assert not bucket.try_take()
    clock.now += 0.7
    assert bucket.try_take()
    assert not bucket.try_take()


def test_the_bucket_holds_one_second_at_most() -> None:
    """An idle hour does not allow a larger burst."""
    clock = ManualClock()
    bucket = TokenBucket(10, clock)
    clock.now += 3600
    assert sum(bucket.try_take() for _ in range(100)) == 10


@given(st.floats(0.1, 33), st.lists(st.floats(0, 2), max_size=200))
def test_reservations_never_exceed_the_rate(rate: float, pauses: list[float]) -> None:
    """In any rhythm, no more are due by a moment than the rate allows, and one burst."""
    clock = ManualClock()
    bucket, began, due = TokenBucket(rate, clock), clock.now, []
    for pause in pauses:
        clock.now += pause
        due.append(clock.now + bucket.reserve())
    for number, at in enumerate(sorted(due), start=1):
        assert number <= max(1.0, rate) + rate * (at - began) + 1e-6, at
