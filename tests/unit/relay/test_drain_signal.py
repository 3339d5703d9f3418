"""How the shards tell that a backlog is being drained, so that inference makes way."""

from relay.drain_signal import DRAIN_SECONDS, ALLOW_SECONDS, DEFER_SECONDS, DrainSignal


def test_a_drain_without_end_leaves_the_calls_a_tenth_of_the_time() -> None:
    """They make way for most of a minute, then have a few seconds; a moment's breath of a shard changes nothing."""
    now = [1000.0]
    drain_signal = DrainSignal(lambda: now[0])
    turns = []
    for second in range(3 * 60):
        now[0] = 1000.0 + second
        drain_signal.marked(0, full=True)
        turns.append(drain_signal.is_draining())
        drain_signal.caught_up(0)
        assert not drain_signal.is_draining()
    held, free = round(DEFER_SECONDS), round(ALLOW_SECONDS)
    assert turns == ([True] * held + [False] * free) * 3


def test_a_new_drain_is_made_way_for_from_its_beginning() -> None:
    """However long the one before it was, if the shards kept up in between."""
    now = [1000.0]
    drain_signal = DrainSignal(lambda: now[0])
    for second in (*range(50), 58):
        now[0] = 1000.0 + second
        drain_signal.marked(0, full=True)
        assert drain_signal.is_draining()


def test_a_shard_that_stands_still_is_not_made_way_for() -> None:
    """Its last full batch is long ago, whatever holds it."""
    now = [1000.0]
    drain_signal = DrainSignal(lambda: now[0])
    drain_signal.marked(0, full=True)
    now[0] += DRAIN_SECONDS - 1
    assert drain_signal.is_draining()
    now[0] += 1
    assert not drain_signal.is_draining()
