"""What a continuous verification exports."""

from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from outbox.errors import DatabaseUnavailableError
from outbox.models import StoredVerdict
from outbox.store import Store
from relay.health import Health
from relay.process.verification import VerifyMetrics, watch
from relay.verify.verdict import Fault, Sample, Verdict
from relay.verify.verifier import Verifier


def test_faults_are_counted_once() -> None:
    """A new beginning that finds them again adds nothing, and one that finds fewer hides none that follow."""
    registry = CollectorRegistry()
    metrics, counted = VerifyMetrics(registry), list[float | None]()
    for found in (3, 3, 1, 2, 2):
        verdict = Verdict(0, 1, values=False)
        for number in range(found):
            verdict.found(Fault.MISSING, Sample(number))
        metrics.update(verdict)
        counted.append(registry.get_sample_value("outbox_verify_faults_total", {"kind": "missing"}))
    assert counted == [3, 3, 3, 4, 4]


class Stopped(BaseException):
    """Ends a watch, as a signal does."""


class ReadOnlyStore:
    """A store in which no verdict can be stored."""

    def store_verdict(self, _verdict: StoredVerdict) -> None:
        """Fail."""
        raise DatabaseUnavailableError("no verdict can be stored")


class TwoPasses:
    """A verifier whose third pass is interrupted."""

    def __init__(self) -> None:
        self._passes = iter(range(2))

    def run_pass(self) -> Verdict:
        """Find a fault."""
        for _ in self._passes:
            verdict = Verdict(0, 1, values=False)
            verdict.found(Fault.MISSING, Sample(1))
            return verdict
        raise Stopped


def test_a_verdict_that_cannot_be_stored_counts() -> None:
    """It is reported as any other, and the next pass goes on from there: nothing that was read is read again."""
    begun: list[TwoPasses] = []
    faults: list[dict[str, int]] = []
    errors: list[Exception] = []

    def begin(_report: object) -> Verifier:
        begun.append(TwoPasses())
        return cast("Verifier", begun[-1])

    with pytest.raises(Stopped):
        watch(
            begin,
            cast("Store", ReadOnlyStore()),
            0,
            Health(),
            lambda verdict: faults.append(verdict.faults),
            errors.append,
        )
    assert (len(begun), [each["missing"] for each in faults]) == (1, [1, 1])
    assert [type(error) for error in errors] == [DatabaseUnavailableError] * 2
