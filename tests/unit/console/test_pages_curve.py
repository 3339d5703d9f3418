"""The curve of the backlog: samples of an hour, drawn as lines."""

from console.pages.curve import GAP_MS, HEIGHT, SPAN_MS, WIDTH, BacklogSampler, Sample, draw
from outbox.errors import DatabaseUnavailableError
from testkit.clock import ManualClock

NOW = 10 * SPAN_MS


def test_one_sample_is_no_line() -> None:
    """There is nothing to draw before the second one."""
    assert draw([], NOW) is None
    assert draw([Sample(NOW, 5)], NOW) is None


def test_the_line_ends_now_and_its_top_is_the_highest_sample() -> None:
    """The left end is an hour ago; an empty backlog is the bottom."""
    curve = draw([Sample(NOW - GAP_MS, 0), Sample(NOW - GAP_MS // 2, 50), Sample(NOW, 25)], NOW)
    assert curve is not None
    assert curve.lines == [f"590.0,{HEIGHT}.0 595.0,0.0 {WIDTH}.0,{HEIGHT / 2}"]
    assert (curve.highest.pending, curve.last.pending) == (50, 25)


def test_a_pause_in_the_samples_is_a_gap() -> None:
    """The lines on both sides are not joined."""
    curve = draw([Sample(NOW - 3 * GAP_MS, 1), Sample(NOW - 2 * GAP_MS, 1), Sample(NOW, 1)], NOW)
    assert curve is not None
    assert [len(line.split()) for line in curve.lines] == [2, 1]


def test_an_empty_backlog_is_drawn_along_the_bottom() -> None:
    """Nothing is divided by zero."""
    curve = draw([Sample(NOW - 1000, 0), Sample(NOW, 0)], NOW)
    assert curve is not None
    assert curve.lines[0].endswith(f"{WIDTH}.0,{HEIGHT}.0")


def test_samples_are_kept_for_an_hour_and_outages_leave_none() -> None:
    """A database that does not answer is no reason to fail; older samples are dropped."""
    clock, counts = ManualClock(1_000_000.0), [1, None, 2]

    def count() -> int:
        pending = counts.pop(0)
        if pending is None:
            raise DatabaseUnavailableError("the database does not answer")
        return pending

    sampler = BacklogSampler(count, lambda: round(clock() * 1000))
    for _ in range(3):
        sampler.sample()
        clock.now += SPAN_MS / 3000
    assert [sample.pending for sample in sampler.samples()] == [1, 2]
    clock.now += 1
    assert [sample.pending for sample in sampler.samples()] == [2]
