"""When a busy shard selects again."""

import pytest

from relay.shard.pacing import GATHER_ROWS, GATHER_SECONDS, Pacing
from testkit.clock import ManualClock


def pause_after(rows: int, interval: float, seconds: float) -> float:
    """Return the pause after a transaction.

    Args:
        rows: that it sent.
        interval: seconds between the select before it and its own.
        seconds: from its select to its end.
    """
    clock = ManualClock()
    pacing = Pacing(clock)
    clock.now += interval
    pacing.selecting()
    pacing.sent(rows)
    clock.now += seconds
    return pacing.pause_seconds()


def test_rows_gather_if_they_arrive_quickly() -> None:
    """From one select to the next it takes as long as rows are to gather."""
    assert pause_after(GATHER_ROWS, GATHER_SECONDS, 0.005) == pytest.approx(GATHER_SECONDS - 0.005)


@pytest.mark.parametrize(
    ("rows", "interval", "seconds"),
    [(GATHER_ROWS - 1, 0.001, 0.005), (100, 60.0, 0.005), (GATHER_ROWS, GATHER_SECONDS, 0.05), (0, 0.001, 0.005)],
    ids=["few-rows", "many-rows-after-a-quiet-minute", "slow-transaction", "no-rows"],
)
def test_no_row_waits_for_others_that_may_not_come(rows: int, interval: float, seconds: float) -> None:
    """Neither at a low rate nor after a single burst; and a transaction that took long has let rows gather already."""
    assert pause_after(rows, interval, seconds) == 0
