"""Verifies deliveries continuously, and exports the result as metrics."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import NoReturn

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from outbox.errors import OutboxError
from outbox.store import Store
from relay.errors import RelayError
from relay.health import Health
from relay.verify.verdict import Fault, Verdict
from relay.verify.verifier import Report, Verifier

MAX_SLEEP_SECONDS = 10.0


class VerifyMetrics:
    """The metrics of a continuous verification.

    Args:
        registry: where they are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        ProcessCollector(registry=registry)
        self._until: Gauge | None = None
        self._faults = Counter(
            "outbox_verify_faults", "Faults that were found in the topic, by kind.", ["kind"], registry=registry
        )
        self._counted = {kind.value: 0 for kind in Fault}
        for kind in self._counted:
            self._faults.labels(kind)

    def update(self, verdict: Verdict) -> None:
        """Export a verdict. A fault that is found again after a new beginning is not counted again."""
        for kind, count in verdict.faults.items():
            self._faults.labels(kind).inc(max(0, count - self._counted[kind]))
            self._counted[kind] = count  # after a new beginning fewer, if rows were pruned meanwhile
        if self._until is None:  # before the first pass 0 would be a claim
            text = "Every row that was sent before this time was compared with the topic."
            self._until = Gauge("outbox_verified_until_timestamp_seconds", text, registry=self._registry)
        self._until.set(verdict.at_ms / 1000)


def watch(
    new_verifier: Callable[[Report], Verifier],
    store: Store,
    seconds: float,
    health: Health,
    on_pass: Callable[[Verdict], None],
    on_error: Callable[[Exception], None],
) -> NoReturn:
    """Verify pass after pass, and store each verdict, until an exception that is no error of a service.

    After an error of a pass the next one begins anew: what the failed one had read would count as doubled.

    Args:
        new_verifier: creates a verifier without an end, which reports its progress.
        store: where the verdict is stored.
        seconds: between two passes.
        health: is told that passes advance.
        on_pass: called with each verdict.
        on_error: called with each error of a service.
    """
    verifier: Verifier | None = None
    while True:
        try:
            verifier = verifier or new_verifier(lambda _what, _done, _total: health.record_liveness())
            verdict = verifier.run_pass()
        except (OutboxError, RelayError) as error:
            verifier = None
            on_error(error)
        else:
            _store(store, verdict, on_error)  # first: whoever sees the metrics finds the verdict
            on_pass(verdict)
        _pause(seconds, health)


def _store(store: Store, verdict: Verdict, on_error: Callable[[Exception], None]) -> None:
    """Store a verdict; if that fails, the verifier can go on all the same."""
    try:
        store.store_verdict(verdict.stored)
    except OutboxError as error:
        on_error(error)


def _pause(seconds: float, health: Health) -> None:
    """Wait; a long pause is no stall."""
    ends = monotonic() + seconds
    while (left := ends - monotonic()) > 0:
        health.record_liveness()
        sleep(min(left, MAX_SLEEP_SECONDS))
