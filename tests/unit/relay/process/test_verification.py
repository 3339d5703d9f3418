"""What a continuous verification exports."""

from prometheus_client import CollectorRegistry

from relay.process.verification import VerifyMetrics
from relay.verify.verdict import Fault, Sample, Verdict


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
