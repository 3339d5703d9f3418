"""How many rows the next transaction takes, after what happened to those before."""

from random import Random

import pytest

from outbox.models import PendingRow
from relay.errors import MisconfiguredError
from relay.shard.batch_size import (
    INITIAL_ROWS,
    MAX_PARKED_IN_A_ROW,
    FAST_FAILURE_SECONDS,
    SLOW_SECONDS,
    MAX_SECONDS,
    BatchSize,
)

MOST = 5_000
TOO_SLOW = MAX_SECONDS + 1


def rows(count: int) -> list[PendingRow]:
    """Rows of as many interactions."""
    return [PendingRow(n, n, f"i-{n}", "voice", 0, None, None, None, None, 0) for n in range(1, count + 1)]


def after_growth(batch: BatchSize, seconds_a_row: float, transactions: int = 40) -> int:
    """The size after so many full transactions at that speed."""
    for _ in range(transactions):
        batch.committed(rows(batch.limit), batch.limit * seconds_a_row)
    return batch.limit


def test_it_begins_small_and_grows_to_what_is_wanted() -> None:
    """A relay that takes over does not know yet how slow the way is."""
    batch = BatchSize(MOST, Random(1))
    assert batch.limit == INITIAL_ROWS
    assert after_growth(batch, 0.0001) == MOST
    assert BatchSize(10, Random(1)).limit == 10


@pytest.mark.parametrize("seconds_a_row", [0.004, 0.05, 1.0, 4.0])
def test_a_transaction_takes_seconds_however_slow_the_way_is(seconds_a_row: float) -> None:
    """As many rows as take five to ten seconds, or what comes closest to it; and the speed is said."""
    batch = BatchSize(MOST, Random(1))
    took = after_growth(batch, seconds_a_row) * seconds_a_row
    assert SLOW_SECONDS / 2 <= took <= MAX_SECONDS
    assert batch.slow is None or "rows/s" in batch.slow
    assert after_growth(batch, 0.0001) == MOST
    assert batch.slow is None


def test_transactions_that_fail_after_a_long_time_shrink_to_one_row() -> None:
    """So that the smallest one is tried at last; quick failures say nothing of the size."""
    batch = BatchSize(MOST, Random(1))
    batch.failed(rows(batch.limit), FAST_FAILURE_SECONDS)
    assert batch.limit == INITIAL_ROWS
    for _ in range(20):
        batch.failed(rows(batch.limit), TOO_SLOW)
    assert batch.limit == 1


def test_a_transaction_that_has_less_time_than_usual_shrinks_all_the_same() -> None:
    """With a short transaction.timeout.ms or message.timeout.ms the same rows would be sent again without end."""
    batch, seconds_a_row, time_out = BatchSize(MOST, Random(1)), 0.1, 1.5
    for _ in range(20):
        if batch.limit * seconds_a_row <= time_out:
            return
        batch.failed(rows(batch.limit), time_out)
    raise AssertionError(f"still {batch.limit} rows")


@pytest.mark.parametrize("culprit", [1, 7, 100])
def test_a_refused_batch_is_halved_until_the_culprit_is_alone(culprit: int) -> None:
    """Whoever it is among the rows; those before it pass meanwhile, and then the usual size is back."""
    batch, pending, found = BatchSize(MOST, Random(1)), rows(100), None
    while found is None:
        sent = pending[: batch.limit]
        if culprit in {row.id for row in sent}:
            found = batch.refused(sent, "too large")
        else:
            batch.committed(sent, 0.1)
            pending = pending[len(sent) :]
    assert found.id == culprit
    assert batch.limit >= INITIAL_ROWS


def park(batch: BatchSize, count: int) -> None:
    """Park rows one after the other."""
    for row in rows(count):
        assert batch.refused([row], "refused") == row
        batch.parked(1)


def test_when_nothing_passes_no_row_is_at_fault() -> None:
    """After some that were parked another one is tried alone, and if it is refused as well nothing is parked."""
    batch = BatchSize(MOST, Random(1))
    park(batch, MAX_PARKED_IN_A_ROW)
    tried = batch.choose(rows(50))
    assert len(tried) == 1
    with pytest.raises(MisconfiguredError, match="not a fault of rows"):
        batch.refused(tried, "refused")
    batch.committed(tried, 0.1)
    assert batch.choose(rows(50)) == rows(50)
    park(batch, MAX_PARKED_IN_A_ROW)


def test_rows_to_try_are_looked_for_beyond_a_small_batch() -> None:
    """With one row a transaction it would be the same one each time, and rows that pass stood behind it."""
    batch = BatchSize(1, Random(1))
    park(batch, MAX_PARKED_IN_A_ROW)
    assert len({batch.choose(rows(10)[: batch.window])[0].id for _ in range(50)}) > 1
    batch.committed(rows(1), 0.1)
    assert batch.window == 1


def test_the_row_that_is_tried_is_the_first_of_its_interaction() -> None:
    """Order within an interaction stays as it is."""
    batch = BatchSize(MOST, Random(1))
    park(batch, MAX_PARKED_IN_A_ROW)
    two = [row._replace(interaction_id=f"i-{row.id % 2}") for row in rows(10)]
    assert {batch.choose(two)[0].id for _ in range(50)} == {1, 2}
