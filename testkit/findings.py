"""Findings of ``relay check``."""

from collections.abc import Iterable

from relay.check.finding import Finding, Status


def problems(findings: Iterable[Finding]) -> dict[str, Status]:
    """Subject to status of each finding that is not ok; each must have a remedy."""
    found = [finding for finding in findings if finding.status != Status.OK]
    for finding in found:
        assert finding.remedy, finding
    return {finding.subject: finding.status for finding in found}
