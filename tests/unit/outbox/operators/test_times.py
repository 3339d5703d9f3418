"""Times as operators type and read them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from outbox.operators.format import format_time
from outbox.operators.times import parse_time


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a zone whose offset changes twice a year."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def now() -> datetime:
    """Return three in the morning, in the week after summer time began."""
    return datetime(2026, 4, 1, 1, 0, tzinfo=UTC).astimezone()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-31T08:00", "2026-01-31T07:00:00Z"),  # winter's offset, though it is summer now
        ("2026-01-31 08:00:30", "2026-01-31T07:00:30Z"),
        ("2026-01-31", "2026-01-30T23:00:00Z"),
        ("20260131T0800", "2026-01-31T07:00:00Z"),
        ("2026-01-31T08:00Z", "2026-01-31T08:00:00Z"),
        ("2026-01-31T08:00+05:30", "2026-01-31T02:30:00Z"),
        ("2026-01-31T08:00 UTC", "2026-01-31T08:00:00Z"),
        ("2026-01-31T08:00 America/New_York", "2026-01-31T13:00:00Z"),
        ("2026-01-31T08:00+01:00[Europe/Berlin]", "2026-01-31T07:00:00Z"),
        ("1764187200000", "2025-11-26T20:00:00Z"),
        ("1764187200", "2025-11-26T20:00:00Z"),
        ("1764187200.5", "2025-11-26T20:00:00.500000Z"),
        ("90s", "2026-04-01T00:58:30Z"),
        ("1w", "2026-03-25T01:00:00Z"),
        ("2H", "2026-03-31T23:00:00Z"),
        ("1h30m", "2026-03-31T23:30:00Z"),
        ("1d 12h ago", "2026-03-30T13:00:00Z"),
        ("now", "2026-04-01T01:00:00Z"),
        ("02:59", "2026-04-01T00:59:00Z"),
        ("21:00", "2026-03-31T19:00:00Z"),  # last evening's: today's has not come
        ("9:05", "2026-03-31T07:05:00Z"),
        ("today", "2026-03-31T22:00:00Z"),
        ("Yesterday", "2026-03-30T22:00:00Z"),
        ("yesterday 21:00", "2026-03-31T19:00:00Z"),
        ("today 02:00", "2026-04-01T00:00:00Z"),
    ],
)
def test_times_are_parsed_as_people_write_them(text: str, utc: str) -> None:
    """Times without an offset are local; days, times of day and ages count back from now."""
    assert parse_time(text, now()) == datetime.fromisoformat(utc)


@pytest.mark.parametrize(
    "text", ["", " ", "soon", "1", "12", "-1h", "30m1h", "1y", "25:00", "2026-02-30", "1764187200000000", "today 25:00",
             "2026-01-31T08:00 Nowhere/Land", "2026-01-31T08:00 ../../etc", "999999w", "1764187200000ms"]
)  # fmt: skip
def test_an_ambiguous_time_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError):
        parse_time(text, now())


@pytest.mark.parametrize(
    ("at_ms", "text"), [(1769842800000, "2026-01-31T08:00:00+01:00"), (1775012400999, "2026-04-01T05:00:00+02:00")]
)
def test_a_printed_time_has_its_offset_and_can_be_parsed(at_ms: int, text: str) -> None:
    """``--since`` accepts what commands print."""
    assert format_time(at_ms) == text
    assert parse_time(text, now()).timestamp() == at_ms // 1000


def test_times_without_an_offset_may_be_of_another_zone() -> None:
    """Pages that show UTC read what is typed as UTC, whatever this machine's zone is."""
    now = datetime(2026, 1, 31, 20, 0, tzinfo=UTC)
    assert parse_time("21:00", now, UTC) == datetime(2026, 1, 30, 21, 0, tzinfo=UTC)
    assert parse_time("2026-01-31T08:00", now, UTC) == datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
    assert parse_time("2026-01-31T08:00+01:00", now, UTC) == datetime(2026, 1, 31, 7, 0, tzinfo=UTC)
