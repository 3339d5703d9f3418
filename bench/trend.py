"""Decide whether figures grow during a long run, by a least-squares line through its second half."""

from collections.abc import Mapping, Sequence
from statistics import linear_regression, mean
from typing import Any, NamedTuple

Sample = tuple[float, Mapping[str, float]]
"""Seconds since the start of the run, and the figures at that time."""


class Limit(NamedTuple):
    """The rise of the line over the second half that does not count as growth; the larger of the two applies."""

    share: float
    """As a share of the mean."""
    minimum: float
    """In the unit of the figure; for noise that is independent of the mean."""


def assess_growth(samples: Sequence[Sample], limits: Mapping[str, Limit]) -> dict[str, Any]:
    """Return each figure's mean, maximum, rise and allowed rise over the second half, and a verdict."""
    half = samples[len(samples) // 2 :]
    times = [at for at, _ in half]
    figures_by_name = {
        name: _assess(times, [figures[name] for _, figures in half], limit) for name, limit in limits.items()
    }
    growing = [name for name, each in figures_by_name.items() if each["rise"] > each["allowed rise"]]
    return {"verdict": f"grows: {', '.join(growing)}" if growing else "nothing grows", **figures_by_name}


def _assess(times: Sequence[float], values: Sequence[float], limit: Limit) -> dict[str, float]:
    slope = linear_regression(times, values).slope
    return {
        "mean": round(mean(values), 1),
        "max": round(max(values), 1),
        "rise": round(slope * (times[-1] - times[0]), 1),
        "allowed rise": round(max(limit.share * mean(values), limit.minimum), 1),
    }
