"""How the shards tell that a backlog is being drained, so that inference makes way."""

from relay.drain_signal import FREE_SECONDS, HELD_SECONDS, RUSH_SECONDS, Marks


def test_a_drain_without_end_leaves_the_calls_a_tenth_of_the_time() -> None:
    """They make way for most of a minute, then have a few seconds; a moment's breath of a shard changes nothing."""
    now = [1000.0]
    marks = Marks(lambda: now[0])
    turns = []
    for second in range(3 * 60):
        now[0] = 1000.0 + second
        marks.marked(0, full=True)
        turns.append(marks.rushing())
        marks.keeps_up(0)
        assert not marks.rushing()
    held, free = round(HELD_SECONDS), round(FREE_SECONDS)
    assert turns == ([True] * held + [False] * free) * 3


def test_a_new_drain_is_made_way_for_from_its_beginning() -> None:
    """However long the one before it was, if the shards kept up in between."""
    now = [1000.0]
    marks = Marks(lambda: now[0])
    for second in (*range(50), 58):
        now[0] = 1000.0 + second
        marks.marked(0, full=True)
        assert marks.rushing()


def test_a_shard_that_stands_still_is_not_made_way_for() -> None:
    """Its last full batch is long ago, whatever holds it."""
    now = [1000.0]
    marks = Marks(lambda: now[0])
    marks.marked(0, full=True)
    now[0] += RUSH_SECONDS - 1
    assert marks.rushing()
    now[0] += 1
    assert not marks.rushing()
