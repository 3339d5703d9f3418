"""The results of a run: kept in a file, so that an interrupted run continues, and printed as tables."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from testkit import ROOT
from tests.faults.kills.hundred import Outcome
from tests.faults.kills.kinds import NAMES
from tests.faults.outcome import FaultSummary, markdown_table

FOLDER = ROOT / ".faults"
HUNDRED = 100


class Hundred(NamedTuple):
    """One finished hundred of a run."""

    seed: int
    version: str
    """Of the product, as ``git describe`` names it."""
    machine: str
    outcome: Outcome


class Results:
    """The finished hundreds of the run with one kind of database and one seed.

    Args:
        services: sqlite or postgresql.
        seed: of the run.
        folder: where the file is.
    """

    def __init__(self, services: str, seed: int, folder: Path = FOLDER) -> None:
        self.services, self.seed = services, seed
        self.path = folder / f"kills-{services}-{seed}.json"
        self.hundreds: list[Hundred] = []
        if self.path.exists():
            self.hundreds = [_decoded(*each) for each in json.loads(self.path.read_text())]

    def add(self, outcome: Outcome) -> None:
        """Keep the outcome of the next hundred."""
        self.hundreds.append(Hundred(self.next_seed(), version(), machine(), outcome))
        self.path.parent.mkdir(exist_ok=True)
        written = self.path.with_suffix(".new")
        written.write_text(json.dumps(self.hundreds, indent=1))
        written.replace(self.path)

    def next_seed(self) -> int:
        """Return the seed of the next hundred, which follows from that of the run."""
        rng = Random(self.seed)
        return [rng.randrange(10**6) for _ in range(len(self.hundreds) + 1)][-1]

    @property
    def exact(self) -> bool:
        """Whether nothing was wrong in any hundred."""
        return all(each.outcome.exact for each in self.hundreds)

    def tables(self) -> str:
        """Return what docs/faults.md has: a line on the run, a table by kind of kill, and one by hundred."""
        if not self.hundreds:
            return "no hundred is finished\n"
        versions = ", ".join(dict.fromkeys(each.version for each in self.hundreds))
        machines = "; ".join(dict.fromkeys(each.machine for each in self.hundreds))
        kills = sum(each.outcome.summaries[-1].injected for each in self.hundreds)
        title = f"{self.services}: {kills:,} kills, seed {self.seed}, version {versions}, {machines}"
        wrong = "".join(f"\n{line}\n" for each in self.hundreds for line in each.outcome.wrong)
        by_kind = markdown_table(merged([each.outcome.summaries for each in self.hundreds]))
        return f"{title}\n\n{by_kind}\n{self._by_hundred()}{wrong}"

    def _by_hundred(self) -> str:
        lines = [
            "| hundred | seed | rows | parked | result | longest pause | slowest row | time | `relay verify` |",
            "| ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- |",
        ]
        for number, (seed, _, _, outcome) in enumerate(self.hundreds, 1):
            total = outcome.summaries[-1]
            result = "exact" if outcome.exact else "**wrong**"
            lines.append(
                f"| {number} | {seed} | {total.rows:,} | {outcome.parked} | {result} | {total.longest_pause:.1f} s"
                f" | {outcome.slowest_row:.1f} s | {outcome.seconds:.0f} s | {outcome.verdict.partition(':')[0]} |"
            )
        return "\n".join(lines) + "\n"


def merged(outcomes: Sequence[Sequence[FaultSummary]]) -> list[FaultSummary]:
    """Add the summaries of several hundreds up, in the order of the kinds, with the longest of their pauses."""
    found: dict[str, list[FaultSummary]] = {name: [] for name in (*NAMES, "all")}
    for summaries in outcomes:
        for each in summaries:
            found[each.fault].append(each)
    return [_sum(name, each) for name, each in found.items() if each]


def _sum(name: str, summaries: Sequence[FaultSummary]) -> FaultSummary:
    counts = zip(*(each[1:8] for each in summaries), strict=True)
    longest = zip(*(each[8:] for each in summaries), strict=True)
    return FaultSummary(name, *map(sum, counts), *map(max, longest))


def _decoded(seed: int, version: str, machine: str, outcome: Sequence[Sequence[object]]) -> Hundred:
    summaries, *rest = outcome
    return Hundred(seed, version, machine, Outcome([FaultSummary(*each) for each in summaries], *rest))  # type: ignore[arg-type, misc]


def version() -> str:
    """Return the version of the product, as git describes it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return described.stdout.strip()


def machine() -> str:
    """Return what the run is on."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
