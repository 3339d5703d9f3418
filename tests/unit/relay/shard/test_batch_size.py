"""How many rows the next transaction takes, after the transactions before it."""

import pytest

from relay.shard.batch_size import FAST_FAILURE_SECONDS, INITIAL_ROWS, MAX_SECONDS, SLOW_SECONDS, BatchSize

MAX_ROWS = 5_000
TOO_LONG_SECONDS = MAX_SECONDS + 1


def after_growth(size: BatchSize, seconds_per_row: float, transactions: int = 40) -> int:
    """The size after some full transactions at that speed."""
    for _ in range(transactions):
        size.committed(size.rows, size.rows * seconds_per_row)
    return size.rows


def test_the_size_starts_small_and_grows_to_the_maximum() -> None:
    """After a takeover the throughput is not known yet."""
    size = BatchSize(MAX_ROWS)
    assert size.rows == INITIAL_ROWS
    assert after_growth(size, 0.0001) == MAX_ROWS


def test_the_size_never_exceeds_the_maximum() -> None:
    """Even if the maximum is below the initial size."""
    assert BatchSize(10).rows == 10


@pytest.mark.parametrize("seconds_per_row", [0.004, 0.05, 1.0, 4.0])
def test_a_transaction_takes_seconds_however_slow_kafka_is(seconds_per_row: float) -> None:
    """The size follows the throughput."""
    took = after_growth(BatchSize(MAX_ROWS), seconds_per_row) * seconds_per_row
    assert SLOW_SECONDS / 2 <= took <= MAX_SECONDS


def test_slow_transactions_are_reported_until_they_are_fast_again() -> None:
    """With the throughput, in one significant digit."""
    size = BatchSize(MAX_ROWS)
    size.committed(INITIAL_ROWS, SLOW_SECONDS + 1)
    assert size.slow == "Kafka is slow: about 80 rows/s; transactions are kept small and rows wait"
    assert after_growth(size, 0.0001) == MAX_ROWS
    assert size.slow is None


def test_transactions_that_fail_slowly_shrink_to_one_row() -> None:
    """So that in the end the smallest one is tried."""
    size = BatchSize(MAX_ROWS)
    for _ in range(20):
        size.failed(size.rows, TOO_LONG_SECONDS)
    assert size.rows == 1


def test_transactions_that_fail_fast_do_not_shrink() -> None:
    """Their size is not the reason."""
    size = BatchSize(MAX_ROWS)
    size.failed(size.rows, FAST_FAILURE_SECONDS)
    assert size.rows == INITIAL_ROWS


def test_transactions_shrink_until_they_fit_a_short_timeout() -> None:
    """With a short transaction.timeout.ms or message.timeout.ms the same rows must not fail forever."""
    size, seconds_per_row, timeout_seconds = BatchSize(MAX_ROWS), 0.1, 1.5
    for _ in range(20):
        if size.rows * seconds_per_row > timeout_seconds:
            size.failed(size.rows, timeout_seconds)
    assert size.rows * seconds_per_row <= timeout_seconds
