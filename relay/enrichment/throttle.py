"""When CXone may be called: within the rate, not before its ``Retry-After``, and with backoff while it fails."""

import threading
from collections.abc import Callable
from random import Random
from time import monotonic

from config.token_bucket import TokenBucket
from relay.backoff import Backoff

OUTAGE_SECONDS = 10.0
"""CXone counts as down after failing for this long without a success."""
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0


class Throttle:
    """Limits the requests of all threads together. Safe to use from many threads.

    Args:
        per_second: requests.
        random: source of jitter.
        backoff: pauses after failures.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        per_second: float,
        random: Random,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._bucket, self._clock = TokenBucket(per_second, clock), clock
        self._backoff = backoff or Backoff(random, base_seconds=BACKOFF_SECONDS, cap_seconds=MAX_BACKOFF_SECONDS)
        self._lock = threading.Lock()
        self._backoff_until, self._retry_after_until = 0.0, 0.0
        self._failing_since: float | None = None

    def reserve(self) -> float:
        """Reserve a request within the rate; return the seconds to wait before it is sent."""
        return self._bucket.reserve()

    def pause_seconds(self) -> float:
        """Seconds until a new request may begin, apart from the rate; 0 if it may begin now."""
        with self._lock:
            return max(0.0, max(self._backoff_until, self._retry_after_until) - self._clock())

    def is_within_retry_after(self) -> bool:
        """Whether CXone asked not to be called yet. Unlike a backoff, this holds back requests already begun."""
        with self._lock:
            return self._clock() < self._retry_after_until

    def succeeded(self) -> None:
        """Note that CXone answered: the backoff is over. Its ``Retry-After`` is not."""
        with self._lock:
            self._failing_since, self._backoff_until = None, 0.0
            self._backoff.succeeded()

    def failed(self, retry_after_seconds: float, *, is_up: bool) -> None:
        """Note that a request failed: back off, and at least as long as asked for.

        Args:
            retry_after_seconds: as CXone asked for; 0 if it did not.
            is_up: whether CXone is up nevertheless, and only limits the rate.
        """
        with self._lock:
            now = self._clock()
            self._backoff_until = max(self._backoff_until, now + self._backoff.failed())
            self._retry_after_until = max(self._retry_after_until, now + retry_after_seconds)
            if not is_up and self._failing_since is None:
                self._failing_since = now

    def is_down(self) -> bool:
        """Whether CXone has failed for ``OUTAGE_SECONDS`` without a success."""
        with self._lock:
            return self._failing_since is not None and self._clock() - self._failing_since >= OUTAGE_SECONDS
