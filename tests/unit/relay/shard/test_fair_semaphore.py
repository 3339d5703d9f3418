"""The semaphore that limits how many shards run a cycle at the same time."""

import threading
from collections.abc import Callable

import pytest

from relay.shard.fair_semaphore import FairSemaphore
from testkit.waiting import wait_until

LONG_SECONDS = 60.0
"""Longer than any test."""


def start(semaphore: FairSemaphore, then: Callable[[], object]) -> threading.Thread:
    """A thread that acquires a permit, then does something, then releases it."""

    def run() -> None:
        with semaphore.slot():
            then()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_no_more_threads_than_permits_run_at_once() -> None:
    """The third of three threads waits until one of the first two has released its permit."""
    semaphore, ran = FairSemaphore(2, LONG_SECONDS), threading.Event()
    with semaphore.slot() as first:
        with semaphore.slot() as second:
            start(semaphore, ran.set)
            wait_until(lambda: semaphore.waiting == 1, "the third thread waits")
            assert first
            assert second
            assert not ran.is_set()
        assert ran.wait(LONG_SECONDS)


def test_the_thread_that_waits_longest_is_next() -> None:
    """A thread that releases its permit and asks again comes after the threads that waited meanwhile."""
    semaphore, order = FairSemaphore(1, LONG_SECONDS), list[str]()
    acquired, release = threading.Event(), threading.Event()

    def twice() -> None:
        with semaphore.slot():
            acquired.set()
            release.wait(LONG_SECONDS)
        with semaphore.slot():
            order.append("again")

    threads = [threading.Thread(target=twice, daemon=True)]
    threads[0].start()
    assert acquired.wait(LONG_SECONDS)
    for name in ("a", "b"):
        threads.append(start(semaphore, lambda name=name: order.append(name)))  # type: ignore[misc]
        wait_until(lambda: semaphore.waiting == len(threads) - 1, f"{name} waits")
    release.set()
    for thread in threads:
        thread.join(LONG_SECONDS)
    assert order == ["a", "b", "again"]


def test_a_thread_runs_without_a_permit_after_the_timeout() -> None:
    """Threads that keep their permits block nobody else, and a thread without a permit releases none."""
    semaphore = FairSemaphore(1, 0.01)
    for _ in range(2):
        with semaphore.slot() as first, semaphore.slot() as second:
            assert first
            assert not second


def test_an_error_releases_the_permit() -> None:
    """A cycle that fails does not keep it."""
    semaphore = FairSemaphore(1, LONG_SECONDS)
    with pytest.raises(ZeroDivisionError), semaphore.slot():
        _ = 1 / 0
    with semaphore.slot() as again:
        assert again
