"""Whether what was sampled over a long run grows: a line of least squares through the second half of it."""

from collections.abc import Mapping, Sequence
from statistics import linear_regression, mean
from typing import Any, NamedTuple

Sample = tuple[float, Mapping[str, float]]
"""Seconds since the run began, and the figures at that moment."""


class Limit(NamedTuple):
    """How much of a rise along the line, from the middle of the run to its end, is still none."""

    share: float
    """Of the mean; the larger of the two counts."""
    least: float
    """In the figure's own unit: noise that has nothing to do with the mean."""


def judge(samples: Sequence[Sample], limits: Mapping[str, Limit]) -> dict[str, Any]:
    """Each figure's mean, largest and rise over the second half, the rise allowed, and a verdict in words."""
    half = samples[len(samples) // 2 :]
    times = [at for at, _ in half]
    told = {name: _judged(times, [figures[name] for _, figures in half], limit) for name, limit in limits.items()}
    growing = [name for name, each in told.items() if each["rise"] > each["allowed"]]
    return {"verdict": f"grows: {', '.join(growing)}" if growing else "nothing grows", **told}


def _judged(times: Sequence[float], values: Sequence[float], limit: Limit) -> dict[str, float]:
    slope = linear_regression(times, values).slope
    return {
        "mean": round(mean(values), 1),
        "largest": round(max(values), 1),
        "rise": round(slope * (times[-1] - times[0]), 1),
        "allowed": round(max(limit.share * mean(values), limit.least), 1),
    }
