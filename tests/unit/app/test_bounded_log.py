"""Lines about requests: the first at once, the others together."""

from structlog.testing import capture_logs

from app.bounded_log import BoundedLog, Kind
from testkit.waiting import wait_until


def kind(secret: str) -> Kind:
    """Refusals of requests with a secret."""
    return Kind("refused", "invalid", "request refused: invalid", secret)


def test_repeats_become_one_line_at_the_end_of_the_interval() -> None:
    """No event goes unmentioned, however many there are: the second line counts them, with the fields concerned."""
    with capture_logs() as lines:
        log = BoundedLog(interval_seconds=0.5)
        log.note(kind("a"), ["/id"])
        assert [line["count"] for line in lines] == [1]
        for number in range(1000):
            log.note(kind("a"), ["/channel", f"/{number}"])
            log.note(kind("b"), ["/id"])
        wait_until(lambda: len(lines) == 4, "the interval ends")
        logged = [(line["secret"], line["count"], line["pointers"]) for line in lines]
        assert logged == [
            ("a", 1, ["/id"]),
            ("b", 1, ["/id"]),
            ("a", 1000, ["/channel", "unknown field"]),
            ("b", 999, ["/id"]),
        ]
        log.note(kind("a"), [""])
        assert len(lines) == 5


def test_interval_after_interval_every_event_is_counted_once() -> None:
    """Lines of several intervals add up to the events, whichever interval each fell into."""
    noted = 0
    with capture_logs() as lines:
        log = BoundedLog(interval_seconds=0.05)

        def several_intervals() -> bool:
            nonlocal noted
            log.note(kind("a"))
            noted += 1
            return len(lines) >= 6

        wait_until(several_intervals, "new intervals begin")
        wait_until(lambda: sum(line["count"] for line in lines) == noted, "the last interval ends")
