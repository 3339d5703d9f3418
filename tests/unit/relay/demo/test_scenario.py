"""How the demo counts what arrived."""

import pytest

from relay.demo.clients import ConsumedRecord
from relay.demo.scenario import DemoResult


@pytest.mark.parametrize(
    ("accepted", "consumed", "duplicates", "lost", "unexpected"),
    [
        ([1, 2], [2, 1], 0, 0, 0),
        ([1, 2], [1, 2, 2, 2], 2, 0, 0),
        ([1, 2], [1], 0, 1, 0),
        ([1], [1, 3], 0, 0, 1),
        ([], [], 0, 0, 0),
    ],
)
def test_records_are_counted_against_accepted_rows(
    accepted: list[int], consumed: list[int], duplicates: int, lost: int, unexpected: int
) -> None:
    """Exactly once means no duplicate, no loss, nothing unexpected, and at least one accepted row."""
    records = tuple(ConsumedRecord(outbox_id, {}) for outbox_id in consumed)
    result = DemoResult(5, frozenset(accepted), 1, records, 0)
    assert (result.duplicates, result.lost, result.unexpected) == (duplicates, lost, unexpected)
    assert result.exactly_once is (bool(accepted) and (duplicates, lost, unexpected) == (0, 0, 0))
