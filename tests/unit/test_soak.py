"""The soak's verdicts: what counts as growth, and as delivered exactly once."""

import pytest

from bench.soak import delivery
from bench.trend import Limit, Sample, judge

LIMITS = {"memory": Limit(0.0, 4.0), "rows": Limit(0.1, 0.0)}


def _samples(memory: float = 0.0, rows: float = 0.0) -> list[Sample]:
    """A run of half an hour whose figures rise by so much in each half, on top of the teeth of a saw."""
    saw = [(second, second % 30) for second in range(0, 1801, 5)]
    return [
        (second, {"memory": 100 + memory * second / 900 + tooth / 30, "rows": 1000 + rows * second / 900 + 10 * tooth})
        for second, tooth in saw
    ]


def test_a_saw_that_stays_level_does_not_grow() -> None:
    """Teeth are no growth, however high."""
    assert judge(_samples(), LIMITS)["verdict"] == "nothing grows"


@pytest.mark.parametrize(("memory", "rows", "named"), [(6, 0, "memory"), (0, 200, "rows"), (6, 200, "memory, rows")])
def test_a_rise_beyond_its_limit_is_named(memory: float, rows: float, named: str) -> None:
    """With what it was, and what was allowed."""
    judged = judge(_samples(memory, rows), LIMITS)
    assert judged["verdict"] == f"grows: {named}"
    assert judged["memory"]["allowed"] == 4.0
    assert judged["memory"]["rise"] == pytest.approx(memory, abs=0.2)


def test_a_rise_that_ended_before_half_time_is_none() -> None:
    """A process fills its caches once."""
    samples: list[Sample] = [(second, {"memory": min(second, 600.0), "rows": 0}) for second in range(0, 1801, 5)]
    assert judge(samples, LIMITS)["verdict"] == "nothing grows"


@pytest.mark.parametrize(
    ("arrived", "told"),
    [
        ([3, 1, 2], "3 rows accepted, each delivered exactly once"),
        ([3, 1, 2, 4], "3 rows accepted, each delivered exactly once, and 1 whose answer was not 202"),
        ([3, 1], "NOT exactly once: of 3 rows accepted 1 are missing, 0 came again"),
        ([3, 1, 2, 2, 2], "NOT exactly once: of 3 rows accepted 0 are missing, 2 came again"),
    ],
)
def test_lost_and_doubled_rows_are_told(arrived: list[int], told: str) -> None:
    """A row that arrived without an answer of 202 is neither."""
    assert delivery([1, 2, 3], arrived) == told
