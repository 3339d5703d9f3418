"""How long to wait before the next attempt."""

from random import Random


class Backoff:
    """Capped exponential backoff with full jitter.

    Args:
        random: source of the jitter.
        base_seconds: upper bound of the first delay.
        cap_seconds: upper bound of every delay.

    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, random: Random, base_seconds: float = 0.2, cap_seconds: float = 10.0) -> None:
        self._random = random
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._failures = 0

    def failed(self) -> float:
        """Count a failure; seconds to wait before the next attempt."""
        self._failures = min(self._failures + 1, 32)
        ceiling = min(self._cap_seconds, self._base_seconds * 2.0 ** (self._failures - 1))
        return self._random.uniform(0, ceiling)

    def succeeded(self) -> None:
        """Start from the beginning at the next failure."""
        self._failures = 0
