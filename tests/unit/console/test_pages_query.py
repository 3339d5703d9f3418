"""What readers type: values, or a message next to the field."""

import pytest

from console.pages.query import Query, row_filter
from outbox.models import INT64_MAX
from outbox.operators.rows import RowFilter


def test_nothing_typed_selects_every_row() -> None:
    """Empty fields, as a form sends them, are no conditions."""
    query = Query({"state": "", "channel": "", "error": "", "since": "", "until": " "})
    assert row_filter(query) == RowFilter()
    assert (query.row_id("after"), query.errors) == (None, {})


def test_each_field_becomes_a_condition() -> None:
    """Texts stay as they are typed; times become milliseconds."""
    typed = {"state": "parked", "channel": " voice", "error": "<b>", "since": "1764187200", "until": "1764187200001"}
    query = Query({**typed, "after": "#4711"})
    wanted = RowFilter(state="parked", channel=" voice", error="<b>", since_ms=1764187200000, until_ms=1764187200001)
    assert row_filter(query) == wanted
    assert (query.row_id("after"), query.errors) == (4711, {})


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("state", "sent'"),
        ("channel", "a\0b"),
        ("error", "x" * 1001),
        ("since", "the day before"),
        ("since", "2026-02-30T08:00Z"),
        ("since", "0001-01-01T00:00Z"),
        ("since", "99999999999999999999"),
        ("since", "999999w"),
        ("since", "a\0"),
        ("until", "2026-01-31T25:00"),
    ],
)
def test_what_cannot_be_used_has_a_message(name: str, typed: str) -> None:
    """The message belongs to the field, and says what is expected."""
    query = Query({name: typed})
    row_filter(query)
    assert list(query.errors) == [name]


@pytest.mark.parametrize("typed", ["x", "-1", "0", "1.5", str(INT64_MAX + 1), "9" * 400, "4711\0", "\uff14\uff17"])
def test_an_id_is_a_number_that_the_database_can_hold(typed: str) -> None:
    """Anything else has a message."""
    query = Query({"after": typed})
    assert query.row_id("after") is None
    assert list(query.errors) == ["after"]


def test_since_must_be_before_until() -> None:
    """The message stands next to the first of both."""
    query = Query({"since": "1h", "until": "2h"})
    row_filter(query)
    assert list(query.errors) == ["since"]


@pytest.mark.parametrize("typed", ["2026-01-31T08:00", "2026-01-31T08:00Z", "2026-01-31T09:00+01:00"])
def test_times_are_utc_unless_they_say_otherwise(typed: str) -> None:
    """The pages show UTC, so what is typed is UTC too."""
    assert row_filter(Query({"since": typed})).since_ms == 1769846400000
