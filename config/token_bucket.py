"""A token bucket, the rate limit of incoming requests (app) and of requests to CXone (relay)."""

import threading
from collections.abc import Callable
from time import monotonic


class TokenBucket:
    """Limits a rate, with bursts of up to one second's worth. Safe to use from many threads.

    Args:
        per_second: tokens added each second; the bucket holds as many, and at least one.
        clock: monotonic, in seconds.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._capacity = max(1.0, per_second)
        self._tokens, self._filled_at = self._capacity, clock()
        self._lock = threading.Lock()

    def try_take(self) -> bool:
        """Take a token if there is one."""
        with self._lock:
            self._fill()
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def reserve(self) -> float:
        """Take a token, if need be one that is still to be added; return the seconds to wait for it."""
        with self._lock:
            self._fill()
            self._tokens -= 1
            return max(0.0, -self._tokens / self._per_second)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
