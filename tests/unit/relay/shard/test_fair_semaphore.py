"""Turns that the shards of a process take."""

import threading
from collections.abc import Callable

import pytest

from relay.shard.fair_semaphore import FairSemaphore
from testkit.waiting import wait_until

LONG = 60.0
"""Longer than any test."""


def test_no_more_than_so_many_have_a_turn_at_once() -> None:
    """The third of three waits for its turn until one of the two before has ended."""
    send_slots, ended = FairSemaphore(2, LONG), threading.Event()
    third = threading.Thread(target=_take, args=(send_slots, ended.set), daemon=True)
    with send_slots.turn() as first:
        with send_slots.turn() as second:
            third.start()
            wait_until(lambda: _waiting(send_slots) == 1, "the third waits")
            assert (first, second, ended.is_set()) == (True, True, False)
        assert ended.wait(LONG)


def test_who_waits_longest_is_next() -> None:
    """A thread that ends its turn and asks again comes behind those that have waited meanwhile."""
    send_slots, order, go = FairSemaphore(1, LONG), list[str](), threading.Event()

    def again() -> None:
        with send_slots.turn():
            go.wait(LONG)
        with send_slots.turn():
            order.append("again")

    first = threading.Thread(target=again, daemon=True)
    first.start()
    wait_until(lambda: send_slots._left == 0, "the first has its turn")
    others = []
    for name in ("a", "b"):
        others.append(
            threading.Thread(target=_take, args=(send_slots, lambda name=name: order.append(name)), daemon=True)
        )
        others[-1].start()
        wait_until(lambda: _waiting(send_slots) == len(others), f"{name} waits")
    go.set()
    for thread in (first, *others):
        thread.join(LONG)
    assert order == ["a", "b", "again"]


def test_a_turn_that_does_not_come_is_done_without() -> None:
    """Turns that are held up hold up nobody else: after the longest wait a thread goes without, and takes none away."""
    send_slots = FairSemaphore(1, 0.01)
    with send_slots.turn() as first, send_slots.turn() as second:
        assert (first, second) == (True, False)
    with send_slots.turn() as third, send_slots.turn() as fourth:
        assert (third, fourth) == (True, False)


def test_a_turn_ends_with_an_error() -> None:
    """A cycle that fails gives its turn back."""
    send_slots = FairSemaphore(1, LONG)
    with pytest.raises(ZeroDivisionError), send_slots.turn():
        _ = 1 / 0
    with send_slots.turn() as again:
        assert again


def _take(send_slots: FairSemaphore, then: Callable[[], object]) -> None:
    with send_slots.turn():
        then()


def _waiting(send_slots: FairSemaphore) -> int:
    return len(send_slots._waiting)
