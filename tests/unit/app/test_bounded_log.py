"""Lines about requests: the first at once, the others together."""

from structlog.testing import capture_logs

from app.bounded_log import BoundedLog
from tests.support import wait_until


def test_repeats_become_one_line_at_the_end_of_the_interval() -> None:
    """No event goes unmentioned, however many there are: the second line counts them, with the fields concerned."""
    with capture_logs() as lines:
        log = BoundedLog(interval_seconds=0.5)
        log.note("refused", "invalid", "a", ["/id"])
        assert [line["count"] for line in lines] == [1]
        for number in range(1000):
            log.note("refused", "invalid", "a", ["/channel", f"/{number}"])
            log.note("refused", "invalid", "b", ["/id"])
        wait_until(lambda: len(lines) == 4, "the interval ends")
        told = [(line["secret"], line["count"], line["pointers"]) for line in lines]
        assert told == [
            ("a", 1, ["/id"]),
            ("b", 1, ["/id"]),
            ("a", 1000, ["/channel", "unknown field"]),
            ("b", 999, ["/id"]),
        ]
        log.note("refused", "invalid", "a", [""])
        assert len(lines) == 5


def test_an_interval_without_repeats_ends_without_a_line() -> None:
    """A lone event has one line, and the next one after the interval has its own at once."""
    with capture_logs() as lines:
        log = BoundedLog(interval_seconds=0.05)

        def noted_at_once() -> bool:
            log.note("refused", "invalid", "a")
            return sum(line["count"] == 1 for line in lines) >= 3

        wait_until(noted_at_once, "new intervals begin")
