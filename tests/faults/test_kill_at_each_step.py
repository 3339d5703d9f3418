"""Relays killed (-9) at every step of a cycle and of taking a shard: rows are sent exactly once and in order."""

import signal

import pytest

from testkit.deployment import Deployment
from testkit.rows import new_rows

STEPS = ["leased", "fenced", "read_back", "acknowledged", "selected", "encoded", "committed", "marked"]


@pytest.mark.parametrize("step", STEPS)
def test_kill_in_the_first_cycle(deployment: Deployment, step: str) -> None:
    """When a relay dies at a step of its first cycle, the next one on the same host continues at once."""
    ids = deployment.record(new_rows(600))
    dying = deployment.relay(kill_at=step, RELAY_BATCH_SIZE="200", RELAY_LEASE_SECONDS="600")
    assert dying.wait() == -signal.SIGKILL
    ids += deployment.record(new_rows(100))
    deployment.relay(RELAY_BATCH_SIZE="200", RELAY_LEASE_SECONDS="600")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_relays_are_killed_one_after_another_while_taking_a_shard(deployment: Deployment) -> None:
    """Relays that die between commit and mark, and while they apply what they read back, lose and duplicate nothing."""
    ids = deployment.record(new_rows(900))
    for step, times in [("committed", 2), ("read_back", 1), ("acknowledged", 1), ("committed", 1), ("fenced", 1)]:
        dying = deployment.relay(kill_at=step, times=times, RELAY_BATCH_SIZE="200")
        assert dying.wait() == -signal.SIGKILL
    deployment.relay(RELAY_BATCH_SIZE="200")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_kill_between_commit_and_mark_makes_inference_calls_due(deployment: Deployment) -> None:
    """Rows that are marked after a read-back get their inference call like any other row."""
    ids = deployment.record(new_rows(50))
    dying = deployment.relay(kill_at="committed", INFERENCE_URL="http://127.0.0.1:9/score")
    assert dying.wait() == -signal.SIGKILL
    assert not deployment.query("SELECT row_id FROM outbox_inference_call")
    deployment.relay(INFERENCE_URL="http://127.0.0.1:9/score")
    deployment.wait_drained()
    assert sorted(row_id for (row_id,) in deployment.query("SELECT row_id FROM outbox_inference_call")) == ids
