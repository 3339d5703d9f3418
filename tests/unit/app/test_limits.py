"""The rate limit as arithmetic, the backlog limit as seen by many threads."""

import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.limits import BacklogLimit, RateLimit
from testkit.waiting import wait_until


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def test_a_seconds_worth_may_come_at_once() -> None:
    """Then one more for each share of a second."""
    clock = Clock()
    limit = RateLimit(10, clock)
    assert [limit.allows() for _ in range(12)] == [True] * 10 + [False] * 2
    clock.now += 0.25
    assert [limit.allows() for _ in range(4)] == [True, True, False, False]
    clock.now += 3600
    assert sum(limit.allows() for _ in range(100)) == 10


def test_less_than_one_a_second_lets_some_through() -> None:
    """A rate below one is a pause between requests, not a wall."""
    clock = Clock()
    limit = RateLimit(0.5, clock)
    assert [limit.allows(), limit.allows()] == [True, False]
    clock.now += 2
    assert [limit.allows(), limit.allows()] == [True, False]


@given(st.floats(0.1, 100), st.lists(st.floats(0, 2), max_size=200))
def test_the_rate_is_never_exceeded(rate: float, pauses: list[float]) -> None:
    """In any rhythm, no more pass than the rate allows, and one burst."""
    clock = Clock()
    limit = RateLimit(rate, clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += limit.allows()
    assert passed <= max(1.0, rate) + rate * sum(pauses) + 1e-6


class SlowStore:
    """A database that answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()

    def pending_at_least(self, _limit: int) -> bool:
        """Full, in the end."""
        self.asked.set()
        return self.answer.wait(60)


def test_no_request_waits_for_the_look_at_the_backlog() -> None:
    """While the look takes its time, what was seen before counts; what it has seen counts from then on."""
    store: Any = SlowStore()
    limit = BacklogLimit(store, 1)
    assert not limit.reached()
    assert store.asked.wait(60)
    assert not limit.reached()
    store.answer.set()
    wait_until(limit.reached, "what the look has found counts")
