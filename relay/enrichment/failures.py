"""Which interactions CXone keeps failing on, and when to give one up.

While CXone is down as a whole, its failures say nothing about an interaction. So a failure counts only if CXone has
answered for another interaction since the previous failure of this one.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import NamedTuple

from cachetools import TTLCache

from relay.backoff import jittered_delay

MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """How failures of one interaction are treated.

    Attributes:
        max_failures: failures that count before it is given up.
        pause_seconds: upper bound of its first pause after a failure.
        max_pause_seconds: upper bound of every pause.
        forget_seconds: its failures are forgotten this long after the latest one.
    """

    max_failures: int = 20
    pause_seconds: float = 1.0
    max_pause_seconds: float = 60.0
    forget_seconds: float = 3600.0


class Failure(NamedTuple):
    """The latest failure of an interaction."""

    failures: int
    """That count, so far."""
    retry_at: float
    """By the monotonic clock."""
    successes_before: int
    """Interactions that CXone had answered for by then."""
    reason: str


def next_failure(
    previous: Failure | None, successes: int, now: float, reason: str, policy: FailurePolicy, random: Random
) -> Failure:
    """The record of an interaction's failure.

    Args:
        previous: its previous failure; None if it has none.
        successes: interactions that CXone has answered for so far.
        now: seconds of the monotonic clock.
        reason: without values of a row.
        policy: sets the pause.
        random: source of jitter.
    """
    failures = 0 if previous is None else previous.failures + (successes > previous.successes_before)
    pause = jittered_delay(max(1, failures), random, policy.pause_seconds, policy.max_pause_seconds)
    return Failure(failures, now + pause, successes, reason)


class FailureRecord:
    """Failures of interactions, in memory. Safe to use from many threads.

    Args:
        random: source of jitter.
        policy: when to pause and give up.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, random: Random, policy: FailurePolicy | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._random, self._policy, self._clock = random, policy or FailurePolicy(), clock
        self._lock = threading.Lock()
        self._successes = 0
        self._failures: TTLCache[str, Failure] = TTLCache(MAX_REMEMBERED, self._policy.forget_seconds)

    def succeeded(self, interaction: str) -> None:
        """Note that CXone answered for an interaction, and forget that it failed."""
        with self._lock:
            self._successes += 1
            self._failures.pop(interaction, None)

    def failed(self, interaction: str, reason: str) -> None:
        """Note that CXone failed on an interaction."""
        with self._lock:
            previous = self._failures.get(interaction)
            self._failures[interaction] = next_failure(
                previous, self._successes, self._clock(), reason, self._policy, self._random
            )

    def may_retry(self, interaction: str) -> bool:
        """Whether an interaction may be requested: it has not failed, or its pause is over and it is not given up."""
        failure = self._get(interaction)
        return failure is None or (not self._is_final(failure) and self._clock() >= failure.retry_at)

    def final_failure(self, interaction: str) -> Failure | None:
        """The failure for which an interaction is given up; None if it is not."""
        failure = self._get(interaction)
        return failure if failure is not None and self._is_final(failure) else None

    def forget(self, interaction: str) -> None:
        """Let an interaction start from the beginning."""
        with self._lock:
            self._failures.pop(interaction, None)

    def _get(self, interaction: str) -> Failure | None:
        with self._lock:
            return self._failures.get(interaction) if self._failures else None

    def _is_final(self, failure: Failure) -> bool:
        return failure.failures >= self._policy.max_failures
