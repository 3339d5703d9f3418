"""Kill processes of the product on one outbox, and count."""

from collections.abc import Callable, Sequence
from random import Random
from time import monotonic
from typing import NamedTuple

from testkit.command_line import command
from testkit.deployment import Deployment
from testkit.waiting import wait_until
from tests.faults.kills.system import PAUSE_SECONDS, Kill, KilledSystem
from tests.faults.nemesis import pause
from tests.faults.outcome import FaultSummary, Observations, check_outcome
from tests.faults.torture import DRAIN_SECONDS, RESUME_SECONDS, observe


class Outcome(NamedTuple):
    """What came of some kills on one outbox."""

    summaries: Sequence[FaultSummary]
    """Of each kind of kill, and of all."""
    verdict: str
    """What ``relay verify --values`` printed last."""
    wrong: Sequence[str]
    """What is wrong and not in the summaries."""
    parked: int
    """Rows that Kafka had to refuse."""
    slowest_row: float
    """Longest time between the receipt of a row and its arrival at the consumer, in seconds."""
    seconds: float
    """How long it took, in seconds."""

    @property
    def exact(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.wrong and all(each.exact for each in self.summaries)


def run_kills(deployment: Deployment, kills: Sequence[Kill], rng: Random, write: Callable[[str], object]) -> Outcome:
    """Kill processes under load, one after another; then let the outbox drain, and count.

    Args:
        deployment: a fresh outbox.
        kills: what to kill, in order.
        rng: decides which process, and when.
        write: called with a line after each kill.
    """
    began, system = monotonic(), KilledSystem(deployment, rng)
    try:
        wait_until(lambda: system.consumer.arrivals, "the first records arrive", RESUME_SECONDS)
        for number, kill in enumerate(kills, 1):
            system.kill(kill)
            last = system.kills[-1]
            write(f"{number:3} {last.recovered - last.began:6.1f} s  {kill.name}\n")
            pause(rng.uniform(0, PAUSE_SECONDS))
        recovered = system.recovered()
        system.load.stop()
        wrong = unmade_calls(deployment)
        observed = observe(system, system.load)
        verdict = command(deployment.environ, "verify", "--until", "now", "--values")
    finally:
        system.close()
    refused = {each.outbox_id for each in system.refused}
    if refused != observed.accounted_for:
        wrong.append(f"rows that Kafka refuses are {sorted(refused)}, parked are {sorted(observed.accounted_for)}")
    if verdict.returncode:
        wrong.append(f"relay verify: exit code {verdict.returncode}: {verdict.stdout}{verdict.stderr}")
    return Outcome(
        summaries=check_outcome(recovered, without(refused, observed)),
        verdict=verdict.stdout.strip().splitlines()[-1] if verdict.stdout.strip() else "",
        wrong=wrong,
        parked=len(refused),
        slowest_row=max(at - observed.committed.get(row, at) for row, at in system.consumer.rows.items()),
        seconds=monotonic() - began,
    )


def unmade_calls(deployment: Deployment) -> list[str]:
    """Wait until the outbox drains and every sent row's inference call is made; return what is wrong after a while."""
    query = """
        SELECT count(*) FROM outbox_sent s LEFT JOIN outbox_inference_call c ON c.row_id = s.id
        WHERE c.row_id IS NULL OR c.state <> 'done'
    """
    deadline = monotonic() + DRAIN_SECONDS

    def left() -> int:
        return deployment.pending() + int(deployment.query(query)[0][0])

    wait_until(lambda: not left() or monotonic() > deadline, "every call is made", 2 * DRAIN_SECONDS)
    return [f"{left()} rows or calls are left after {DRAIN_SECONDS:.0f} s"] if left() else []


def without(refused: set[int], observed: Observations) -> Observations:
    """Return the observations without rows that Kafka had to refuse and the relay parked."""
    expected = refused & observed.accounted_for
    return observed._replace(
        accepted={row: at for row, at in observed.accepted.items() if row not in expected},
        committed={row: at for row, at in observed.committed.items() if row not in expected},
        accounted_for=observed.accounted_for - expected,
    )
