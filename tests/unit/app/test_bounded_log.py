"""Warnings about requests at a limited rate."""

from structlog.testing import capture_logs

from app.bounded_log import BoundedLog, EventKind
from testkit.waiting import wait_until


def kind(secret: str) -> EventKind:
    """Refusals of requests with this secret's label."""
    return EventKind("refused", "invalid", "request refused: invalid", secret)


def test_repeats_become_one_line_at_the_end_of_the_interval() -> None:
    """The first event is logged at once; the second line counts all others, with the fields concerned."""
    with capture_logs() as lines:
        log = BoundedLog(interval_seconds=0.5)
        log.warning(kind("a"), ["/id"])
        assert [line["count"] for line in lines] == [1]
        for number in range(1000):
            log.warning(kind("a"), ["/channel", f"/{number}"])
            log.warning(kind("b"), ["/id"])
        wait_until(lambda: len(lines) == 4, "the interval ends")
        logged = [(line["secret"], line["count"], line["pointers"]) for line in lines]
        assert logged == [
            ("a", 1, ["/id"]),
            ("b", 1, ["/id"]),
            ("a", 1000, ["/channel", "unknown field"]),
            ("b", 999, ["/id"]),
        ]
        log.warning(kind("a"), [""])
        assert len(lines) == 5


def test_every_event_is_counted_once_over_several_intervals() -> None:
    """The counts of all lines add up to the number of events."""
    events = 0
    with capture_logs() as lines:
        log = BoundedLog(interval_seconds=0.05)

        def three_intervals_ended() -> bool:
            nonlocal events
            log.warning(kind("a"))
            events += 1
            return len(lines) >= 6

        wait_until(three_intervals_ended, "three intervals end")
        wait_until(lambda: sum(line["count"] for line in lines) == events, "the last interval ends")
