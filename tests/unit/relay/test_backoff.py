"""The pause before the next attempt."""

from random import Random

import pytest

from outbox.errors import DatabaseUnavailableError
from relay.backoff import MAX_DATABASE_PAUSE_SECONDS, MAX_SERVICE_PAUSE_SECONDS, Backoff, pause_after
from relay.errors import MisconfiguredError, TransactionFailedError


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (TransactionFailedError("refused"), MAX_SERVICE_PAUSE_SECONDS),
        (DatabaseUnavailableError("down"), MAX_DATABASE_PAUSE_SECONDS),
        (MisconfiguredError("wrong"), 10.0),
    ],
)
def test_a_pause_is_short_unless_an_operator_has_to_act(error: Exception, longest: float) -> None:
    """It comes on top of an outage: delivery resumes within seconds of the end of a long one."""
    backoff = Backoff(Random(1))
    pauses = [pause_after(error, backoff) for _ in range(200)]
    assert longest * 0.95 < max(pauses) <= longest
