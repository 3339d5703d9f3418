"""Limits how often somebody may try a password."""

import threading
from collections.abc import Callable
from math import ceil
from time import monotonic

from cachetools import TTLCache

MAX_TRIES = 5
WINDOW_SECONDS = 60
MAX_KEYS = 10_000
"""More than can be tried in a window, each try costing a password's hash: no key is pushed out early."""


class Tries:
    """Counts the tries for a name and an address. Safe to use from many threads.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._tries: TTLCache[tuple[str, str], list[float]] = TTLCache(MAX_KEYS, WINDOW_SECONDS, clock)
        self._lock = threading.Lock()

    def seconds_to_wait(self, key: tuple[str, str]) -> int:
        """Count a try; return how long to wait if there were too many, otherwise 0."""
        with self._lock:
            now, times = self._clock(), self._tries.get(key, [])
            recent = [at for at in times if at > now - WINDOW_SECONDS]
            if len(recent) >= MAX_TRIES:
                return max(1, ceil(recent[0] + WINDOW_SECONDS - now))
            self._tries[key] = [*recent, now]
            return 0

    def forget(self, key: tuple[str, str]) -> None:
        """Forget the tries, after one that succeeded."""
        with self._lock:
            self._tries.pop(key, None)
