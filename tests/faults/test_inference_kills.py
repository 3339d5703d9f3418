"""kill -9 at each step of an inference call: no call is lost."""

import signal
from collections import Counter

import pytest

from testkit.deployment import Deployment
from testkit.rows import new_rows
from testkit.simulator import Simulator
from testkit.waiting import wait_until


@pytest.mark.parametrize("step", ["committed", "marked", "claimed", "called", "results_recorded"])
def test_no_call_is_lost_by_a_kill(deployment: Deployment, simulator: Simulator, step: str) -> None:
    """The next relay on this host makes the remaining calls at once; recorded ones are not repeated."""
    deployment.environ.update(simulator.inference)
    ids = deployment.record(new_rows(60, interactions=20))
    dying = deployment.relay(kill_at=step, RELAY_LEASE_SECONDS="600")
    assert dying.wait() == -signal.SIGKILL
    recorded = {
        row_id for (row_id,) in deployment.query("SELECT row_id FROM outbox_inference_call WHERE state = 'done'")
    }
    before = len(simulator.requests["score"])
    deployment.relay(RELAY_LEASE_SECONDS="600")
    wait_until(
        lambda: deployment.query("SELECT count(*) FROM outbox_inference_call WHERE state = 'done'") == [(60,)],
        "every call is done",
    )
    calls = Counter(simulator.scored_keys())
    assert sorted(calls) == ids
    assert not recorded & set(simulator.scored_keys()[before:])
    deployment.check_exactly_once(ids)
