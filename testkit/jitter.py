"""Jitter without chance."""

from random import Random


class MaxJitter(Random):
    """Always draws the upper bound."""

    def uniform(self, _a: float, b: float) -> float:
        """Return the upper bound."""
        return b
