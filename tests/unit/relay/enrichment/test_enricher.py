"""Which rows of a shard may be sent."""

from outbox.models import PendingRow
from relay.enrichment.enricher import sendable


def row(number: int, interaction: str, email: str | None) -> PendingRow:
    """A row of a shard."""
    return PendingRow(number, number, interaction, "voice", 1, email, "agent", None, None, 1)


def test_an_incomplete_row_holds_back_its_interaction_only() -> None:
    """And only what comes after it, unless rows are sent as they are."""
    rows = [row(1, "a", "x@y"), row(2, "a", None), row(3, "b", "x@y"), row(4, "a", "x@y")]
    assert [each.id for each in sendable(rows, (), send_all=False)] == [1, 3]
    assert sendable(rows, (), send_all=True) == rows


def test_interactions_that_are_given_up_are_sent() -> None:
    """Their incomplete rows, and those behind them."""
    rows = [row(1, "a", None), row(2, "b", None), row(3, "a", "x@y"), row(4, "b", "x@y")]
    assert [each.id for each in sendable(rows, {"a": "why"}, send_all=False)] == [1, 3]
