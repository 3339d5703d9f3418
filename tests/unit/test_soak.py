"""What the soak benchmark counts as growth, and as delivered exactly once."""

import pytest

from bench.soak import delivery
from bench.trend import Limit, Sample, assess_growth

LIMITS = {"memory": Limit(0.0, 4.0), "rows": Limit(0.1, 0.0)}


def _samples(memory: float = 0.0, rows: float = 0.0) -> list[Sample]:
    """Return samples of half an hour: a sawtooth whose mean rises by these amounts in each half."""
    sawtooth = [(second, second % 30) for second in range(0, 1801, 5)]
    return [
        (second, {"memory": 100 + memory * second / 900 + tooth / 30, "rows": 1000 + rows * second / 900 + 10 * tooth})
        for second, tooth in sawtooth
    ]


def test_a_level_sawtooth_does_not_grow() -> None:
    """Periodic rises and falls are no growth."""
    assert assess_growth(_samples(), LIMITS)["verdict"] == "nothing grows"


@pytest.mark.parametrize(("memory", "rows", "named"), [(6, 0, "memory"), (0, 200, "rows"), (6, 200, "memory, rows")])
def test_a_rise_beyond_its_limit_is_named(memory: float, rows: float, named: str) -> None:
    """The verdict names each figure that rises too much; its rise and the allowed rise are reported."""
    assessed = assess_growth(_samples(memory, rows), LIMITS)
    assert assessed["verdict"] == f"grows: {named}"
    assert assessed["memory"]["allowed rise"] == 4.0
    assert assessed["memory"]["rise"] == pytest.approx(memory, abs=0.2)


def test_a_rise_in_the_first_half_is_not_growth() -> None:
    """Only the second half counts, since caches fill at the start."""
    samples: list[Sample] = [(second, {"memory": min(second, 600.0), "rows": 0}) for second in range(0, 1801, 5)]
    assert assess_growth(samples, LIMITS)["verdict"] == "nothing grows"


@pytest.mark.parametrize(
    ("arrived", "description"),
    [
        ([3, 1, 2], "3 accepted rows, each delivered exactly once"),
        ([3, 1, 2, 4], "3 accepted rows, each delivered exactly once, and 1 more that were not answered with 202"),
        ([3, 1], "NOT exactly once: of 3 accepted rows 1 are lost; 0 duplicates"),
        ([3, 1, 2, 2, 2], "NOT exactly once: of 3 accepted rows 0 are lost; 2 duplicates"),
    ],
)
def test_lost_and_duplicate_rows_are_counted(arrived: list[int], description: str) -> None:
    """A row that arrived without having been answered with 202 is neither lost nor a duplicate."""
    assert delivery([1, 2, 3], arrived) == description
