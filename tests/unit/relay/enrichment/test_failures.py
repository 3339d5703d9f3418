"""Which failures count against an interaction, how long it pauses, and when it is given up."""

from random import Random

from relay.enrichment.failures import Failure, FailurePolicy, FailureRecord, next_failure
from testkit.clock import ManualClock
from testkit.jitter import MaxJitter

POLICY = FailurePolicy()


def test_a_failure_counts_only_after_a_success_of_another_interaction() -> None:
    """While CXone is down as a whole, its failures say nothing about an interaction."""
    failure = next_failure(None, 7, 100.0, "HTTP 500", POLICY, Random(1))
    for _ in range(50):
        failure = next_failure(failure, 7, 100.0, "HTTP 500", POLICY, Random(1))
    assert failure == Failure(0, failure.retry_at, 7, "HTTP 500")
    assert failure.retry_at <= 101


def test_the_pause_doubles_with_each_failure_that_counts() -> None:
    """Up to a cap."""
    failure, pauses = next_failure(None, 7, 100.0, "HTTP 500", POLICY, MaxJitter()), []
    for successes in range(8, 18):
        failure = next_failure(failure, successes, 100.0, "HTTP 500", POLICY, MaxJitter())
        pauses.append(failure.retry_at - 100)
    assert failure.failures == 10
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


class Record:
    """The failures of an interaction, with the test's clock."""

    def __init__(self, max_failures: int) -> None:
        self.clock = ManualClock()
        policy = FailurePolicy(max_failures=max_failures, pause_seconds=10.0, max_pause_seconds=10.0)
        self.failures = FailureRecord(MaxJitter(), policy, self.clock)

    def fail_alone(self) -> None:
        """Let CXone answer for another interaction, and fail on this one."""
        self.failures.succeeded("other")
        self.failures.failed("bad", "HTTP 500")


def test_an_interaction_is_not_requested_during_its_pause() -> None:
    """Others are."""
    record = Record(max_failures=5)
    record.failures.failed("bad", "HTTP 500")
    assert not record.failures.may_retry("bad")
    assert record.failures.may_retry("other")
    record.clock.now += 10
    assert record.failures.may_retry("bad")


def test_an_interaction_is_given_up_after_the_failures_that_count() -> None:
    """It is not requested any more, and the reason is its latest failure."""
    record = Record(max_failures=2)
    record.fail_alone()
    record.fail_alone()
    assert record.failures.final_failure("bad") is None
    record.fail_alone()
    final = record.failures.final_failure("bad")
    assert final is not None
    assert (final.failures, final.reason) == (2, "HTTP 500")
    record.clock.now += 1000
    assert not record.failures.may_retry("bad")
    assert record.failures.final_failure("other") is None


def test_a_success_or_an_operators_retry_starts_the_count_again() -> None:
    """Nothing of earlier failures is left."""
    record = Record(max_failures=1)
    for restart in (record.failures.succeeded, record.failures.forget):
        record.fail_alone()
        record.fail_alone()
        assert record.failures.final_failure("bad") is not None
        restart("bad")
        assert record.failures.final_failure("bad") is None
        assert record.failures.may_retry("bad")
