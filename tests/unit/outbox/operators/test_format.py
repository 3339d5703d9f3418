"""Counts, ages and names as operators read them."""

import pytest

from outbox.operators.audit import AuditEntry
from outbox.operators.format import escape, format_actor, format_age, format_duration, format_shards, plural


@pytest.mark.parametrize(
    ("age_ms", "text"), [(0, "0s"), (59_999, "59s"), (61_000, "1m 1s"), (3_600_000, "1h 0m"), (90_000_000, "1d 1h")]
)
def test_an_age_is_shown_in_its_two_largest_units(age_ms: int, text: str) -> None:
    """Smaller units are cut off."""
    assert format_age(age_ms) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2_000, "2,000 rows")])
def test_a_noun_agrees_with_its_count(count: int, text: str) -> None:
    """Only one is singular."""
    assert plural(count, "row") == text


@pytest.mark.parametrize(("shards", "text"), [([], "no shard"), ([3], "shard 3"), ([0, 1], "shards 0, 1")])
def test_shards_are_listed_by_number(shards: list[int], text: str) -> None:
    """One, several or none."""
    assert format_shards(shards) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0m 00s"), (187.4, "3m 07s"), (3_599, "59m 59s"), (93_900, "26h 05m")]
)
def test_a_duration_has_minutes_and_seconds_or_hours_and_minutes(seconds: float | None, text: str) -> None:
    """None is a duration that nobody knows."""
    assert format_duration(seconds) == text


def test_escaped_text_cannot_control_a_terminal() -> None:
    """Control characters and marks that change the text direction are spelled out; letters stay."""
    assert escape("\x1b[31m\u202eÄ b") == "\\x1b[31m\\u202eÄ b"


@pytest.mark.parametrize(("os_user", "text"), [("ann", "ann"), ("root", "ann (as root)")])
def test_an_actor_is_named_with_another_user_of_the_process(os_user: str, text: str) -> None:
    """The user of the process is named only if it is not the actor."""
    assert format_actor(AuditEntry(1, 0, "ann", "retry", "{}", "why", "[]", "", os_user)) == text
