"""A short run of kills under load, and tests of its schedule, its results and its traps."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import psutil
import pytest

from testkit import ROOT
from testkit.deployment import NewDeployment
from testkit.traps import Traps
from testkit.waiting import wait_until
from tests.faults.kills.hundred import Outcome, run_kills
from tests.faults.kills.kinds import GROUPS, NAMES, schedule
from tests.faults.kills.results import HUNDRED, Results
from tests.faults.outcome import FaultSummary

SHORT = {
    "a relay at fenced",
    "a relay at committed",
    "a relay at called",
    "a relay at parked",
    "every relay",
    "web, master and workers",
    "a worker of the web at a random moment",
    "a worker after the commit, before an answer",
    "web and a relay at the same time",
}
"""Each of the other steps has a test of its own."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1])
def test_processes_are_killed_under_load(new_deployment: NewDeployment, seed: int) -> None:
    """Relays and web die (-9) at random moments and at steps: every accepted row is in the topic once and in order."""
    progress: list[str] = []
    rng = Random(seed)
    kills = [kill for _, group in GROUPS if group[-1].name in SHORT for kill in group]
    outcome = run_kills(new_deployment(shards=2), kills, rng, progress.append)
    assert outcome.exact, f"{outcome}\n{''.join(progress)}"
    assert outcome.parked == 1
    assert outcome.summaries[-1].injected == len(kills)
    assert outcome.verdict.startswith("no fault"), outcome


def test_the_schedule_has_a_hundred_kills_and_follows_from_its_seed() -> None:
    """Every kind occurs, in an order that its seed determines."""
    first, second, third = ([kill.name for kill in schedule(Random(seed))] for seed in (7, 7, 8))
    assert len(first) == HUNDRED
    assert set(first) == set(NAMES)
    assert first == second != third


def outcome(*, lost: int = 0, wrong: Sequence[str] = ()) -> Outcome:
    """Return an outcome of a hundred kills of two kinds."""
    return Outcome(
        [
            FaultSummary("every relay", 40, 1200, lost, 0, 0, 0, 0, 2.5, 0.5),
            FaultSummary("a relay at fenced", 60, 300, 0, 0, 0, 0, 0, 1.5, 0.25),
            FaultSummary("all", 100, 1600, lost, 0, 0, 0, 0, 2.5, 0.5),
        ],
        "no fault: compared",
        list(wrong),
        parked=2,
        slowest_row=3.25,
        seconds=90,
    )


def test_an_interrupted_run_continues_with_the_next_hundred(tmp_path: Path) -> None:
    """What is finished is read from the file, with its seeds; each hundred of a run has its own."""
    first = Results("sqlite", 7, tmp_path)
    first.add(outcome())
    first.add(outcome())
    continued = Results("sqlite", 7, tmp_path)
    assert continued.hundreds == first.hundreds
    assert continued.next_seed() == first.next_seed()
    assert len({*(each.seed for each in continued.hundreds), continued.next_seed()}) == 3
    assert Results("sqlite", 8, tmp_path).hundreds == []
    assert Results("postgresql", 7, tmp_path).hundreds == []


def test_the_tables_add_the_hundreds_up(tmp_path: Path) -> None:
    """One table has the kinds of kill in their order, with the longest pauses; the other a line for each hundred."""
    results = Results("sqlite", 7, tmp_path)
    results.add(outcome())
    results.add(outcome())
    title, by_kind, by_hundred = results.tables().strip().split("\n\n")
    assert title.startswith("sqlite: 200 kills, seed 7, version ")
    assert by_kind.splitlines()[2:] == [
        "| a relay at fenced | 120 | 600 | 0 | 0 | 0 | 0 | 0 | 1.5 s | 0.2 s |",
        "| every relay | 80 | 2,400 | 0 | 0 | 0 | 0 | 0 | 2.5 s | 0.5 s |",
        "| all | 200 | 3,200 | 0 | 0 | 0 | 0 | 0 | 2.5 s | 0.5 s |",
    ]
    seeds = [each.seed for each in results.hundreds]
    assert by_hundred.splitlines()[2:] == [
        f"| {number} | {seed} | 1,600 | 2 | exact | 2.5 s | 3.2 s | 90 s | no fault |"
        for number, seed in enumerate(seeds, 1)
    ]
    assert results.exact


@pytest.mark.parametrize("bad", [outcome(lost=1), outcome(wrong=["relay verify: exit code 4"])])
def test_one_wrong_hundred_makes_the_run_wrong(tmp_path: Path, bad: Outcome) -> None:
    """It stays in the file, so a run that continues is wrong as well."""
    results = Results("sqlite", 7, tmp_path)
    results.add(bad)
    results.add(outcome())
    continued = Results("sqlite", 7, tmp_path)
    assert not continued.exact
    assert "**wrong**" in continued.tables()
    assert all(line in continued.tables() for line in bad.wrong)


def test_a_trap_is_deadly_at_its_occurrence_only(tmp_path: Path) -> None:
    """The occurrences of a step are counted over all processes; afterwards the trap is gone."""
    ours, theirs = Traps(tmp_path), Traps(tmp_path)
    ours.set("marked", 3)
    assert [ours.is_deadly("marked"), ours.is_deadly("encoded"), theirs.is_deadly("marked")] == [False] * 3
    assert theirs.victim("marked") is None
    assert ours.is_deadly("marked")
    assert theirs.victim("marked") == os.getpid()
    assert theirs.victim("marked") is None
    assert not theirs.is_deadly("marked")


STARTS_A_PROCESS = """
import os, sys, threading
from pathlib import Path
from testkit.forked_process import ForkedProcess
print(ForkedProcess(["http.server", "0"], os.environ, Path(sys.argv[1])).pid, flush=True)
threading.Event().wait()
"""


def test_forked_processes_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """No relay or web process goes on without the run that started it."""
    command = [sys.executable, "-c", STARTS_A_PROCESS, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        forked = psutil.Process(int(run.stdout.readline()))
        run.kill()
    wait_until(lambda: not forked.is_running(), "the forked process ends")
