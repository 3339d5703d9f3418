"""Decides what becomes of an inference call, and how many calls to claim: pure functions."""

from random import Random
from typing import NamedTuple
from urllib.parse import urlsplit

from outbox.states import CallState
from relay.backoff import jittered_delay
from relay.errors import MisconfiguredError
from relay.http_client import HttpResult, Outcome, classify

RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 300.0
"""Upper bounds of the first and of every pause before a call is repeated."""
PREFETCH_SECONDS = 0.25
MAX_PREFETCH = 8.0
"""Batches claimed ahead keep a thread busy for about this long, and are at most this many for each thread."""


class CallDecision(NamedTuple):
    """What becomes of a call after an attempt."""

    state: CallState
    attempts: int
    """Charged so far, this one included if it is charged."""
    wait_seconds: float = 0.0


def decide(
    result: HttpResult, attempts: int, max_attempts: int, random: Random, *, charged: bool = True
) -> CallDecision:
    """Decide what becomes of a call after its latest attempt.

    Args:
        result: of the latest attempt.
        attempts: charged before it.
        max_attempts: charged attempts after which the call is parked.
        random: source of jitter.
        charged: whether a failure counts as the call's own; it does not while the endpoint is down.
    """
    outcome = classify(result)
    if outcome is Outcome.SUCCESS:
        return CallDecision(CallState.DONE, attempts + 1)
    if outcome is Outcome.REJECTED:
        return CallDecision(CallState.PARKED, attempts + 1)
    if result.retry_after_seconds is not None:  # the endpoint is busy: not the call's fault
        return CallDecision(CallState.DUE, attempts, result.retry_after_seconds)
    attempts += charged
    if charged and attempts >= max_attempts:
        return CallDecision(CallState.PARKED, attempts)
    wait = jittered_delay(max(1, attempts), random, RETRY_SECONDS, MAX_RETRY_SECONDS)
    return CallDecision(CallState.DUE, attempts, wait)


def batches_to_hold(concurrency: int, latency_seconds: float) -> int:
    """How many claimed batches to hold: one for each thread and some ahead, fewer the slower the endpoint."""
    ahead = min(MAX_PREFETCH, max(1.0, PREFETCH_SECONDS / max(latency_seconds, 0.001)))
    return concurrency + round(concurrency * ahead)


def require_allowed_host(url: str, allowed: str | None) -> None:
    """Require the URL's host to be among the allowed ones.

    Args:
        url: ``INFERENCE_URL``.
        allowed: host names separated by commas; None allows any.

    Raises:
        MisconfiguredError: it is not.
    """
    host = urlsplit(url).hostname
    if allowed and host not in {name.strip().lower() for name in allowed.split(",")}:
        raise MisconfiguredError(f"INFERENCE_URL names host {host}, which is not in INFERENCE_ALLOWED_HOSTS")
