"""kill -9 around the inference call: after the commit, before it, and before its settlement. None is lost."""

import signal
from collections import Counter

import pytest

from testkit.deployment import Deployment
from testkit.rows import new_rows
from testkit.simulator import Simulator
from testkit.waiting import wait_until


@pytest.mark.parametrize("step", ["committed", "marked", "claimed", "called", "results_recorded"])
def test_kill_between_commit_and_settlement(deployment: Deployment, simulator: Simulator, step: str) -> None:
    """The next relay on this host makes the calls that are left, at once; what was settled is not called again."""
    deployment.environ.update(simulator.inference)
    ids = deployment.record(new_rows(60, interactions=20))
    dying = deployment.relay(kill_at=step, RELAY_LEASE_SECONDS="600")
    assert dying.wait() == -signal.SIGKILL
    settled = {
        row_id for (row_id,) in deployment.query("SELECT row_id FROM outbox_inference_call WHERE state = 'done'")
    }
    before = len(simulator.requests["score"])
    deployment.relay(RELAY_LEASE_SECONDS="600")
    wait_until(
        lambda: deployment.query("SELECT count(*) FROM outbox_inference_call WHERE state = 'done'") == [(60,)],
        "every call is done",
        30,
    )
    times = Counter(simulator.scored_keys())
    assert sorted(times) == ids
    assert not settled & set(simulator.scored_keys()[before:])
    deployment.check_exactly_once(ids)
