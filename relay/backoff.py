"""How long to wait before the next attempt."""

from random import Random

from outbox.errors import DatabaseUnavailableError
from relay.errors import UnavailableError

MAX_DATABASE_PAUSE_SECONDS = 1.0
"""While the database is down: an attempt is cheap, and a failover takes seconds."""
MAX_SERVICE_PAUSE_SECONDS = 2.0
"""While another service is unavailable or refuses the relay: about as long as its client waits between connections. The
pause comes on top of the outage, so it stays short."""


def jittered_delay(failures: int, random: Random, base_seconds: float, cap_seconds: float) -> float:
    """Capped exponential backoff with full jitter: seconds to wait after this many failures in a row.

    Args:
        failures: 1 or more.
        random: source of the jitter.
        base_seconds: upper bound of the first delay.
        cap_seconds: upper bound of every delay.

    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(cap_seconds, base_seconds * 2.0 ** min(failures - 1, 32)))


class Backoff:
    """Counts failures in a row and computes the delay after each.

    Args:
        random: source of the jitter.
        base_seconds: upper bound of the first delay.
        cap_seconds: upper bound of every delay.
    """

    def __init__(self, random: Random, base_seconds: float = 0.2, cap_seconds: float = 10.0) -> None:
        self._random = random
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._failures = 0

    def failed(self) -> float:
        """Count a failure; returns the seconds to wait before the next attempt."""
        self._failures += 1
        return jittered_delay(self._failures, self._random, self._base_seconds, self._cap_seconds)

    def succeeded(self) -> None:
        """Start again with the first delay."""
        self._failures = 0


def pause_after(error: Exception, backoff: Backoff) -> float:
    """Count a failure; returns the seconds to wait before the next attempt, fewer if only a service is unavailable."""
    pause = backoff.failed()
    if isinstance(error, DatabaseUnavailableError):
        return min(pause, MAX_DATABASE_PAUSE_SECONDS)
    return min(pause, MAX_SERVICE_PAUSE_SECONDS) if isinstance(error, UnavailableError) else pause
