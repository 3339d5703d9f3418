"""When the inference calls are throttled because a backlog is being drained."""

from relay.drain_signal import ALLOW_SECONDS, DEFER_SECONDS, DRAIN_SECONDS, DrainSignal
from testkit.clock import ManualClock


def test_a_drain_without_end_leaves_the_calls_a_tenth_of_the_time() -> None:
    """They are throttled for most of a minute, then allowed for some seconds; a short gap changes nothing."""
    clock = ManualClock(1000.0)
    signal, draining = DrainSignal(clock), []
    for second in range(3 * 60):
        clock.now = 1000.0 + second
        signal.rows_sent(0, full_batch=True)
        draining.append(signal.is_draining())
        signal.caught_up(0)
        assert not signal.is_draining(), second
    assert draining == ([True] * round(DEFER_SECONDS) + [False] * round(ALLOW_SECONDS)) * 3


def test_a_new_drain_throttles_from_its_beginning() -> None:
    """However long the drain before it was, if the shards caught up in between."""
    clock = ManualClock(1000.0)
    signal = DrainSignal(clock)
    for second in (*range(50), 58):
        clock.now = 1000.0 + second
        signal.rows_sent(0, full_batch=True)
        assert signal.is_draining(), second


def test_a_blocked_shard_does_not_throttle_the_calls() -> None:
    """Its last full batch is too long ago."""
    clock = ManualClock(1000.0)
    signal = DrainSignal(clock)
    signal.rows_sent(0, full_batch=True)
    clock.now += DRAIN_SECONDS - 1
    assert signal.is_draining()
    clock.now += 1
    assert not signal.is_draining()
