"""What a target is, and how inputs are fed to it."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Protocol

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.corpus import Input, load, save
from tests.fuzz.mutation import inputs

ROUND_INPUTS = 500
"""Hypothesis remembers what it has drawn: a new round begins with less."""
MAX_FINDINGS = 20
SLOW = "slow"
"""A part of a corpus that takes longer than ``make test`` may."""


class Target(Protocol):
    """Takes one input after the other."""

    def check(self, given: Input) -> None:
        """Feed one input; raise an AssertionError if a rule is broken."""

    def finish(self) -> None:
        """Check what can be checked after all inputs, such as that everything recovers."""


OpenTarget = Callable[[Path], AbstractContextManager[Target]]
"""Takes a folder for the target's files."""


class Report(NamedTuple):
    """What a run has fed to a target, and found."""

    inputs: int
    findings: Sequence[str]


class Fuzzer:
    """Feeds inputs to a target.

    Args:
        name: of the target and of its folder in the corpus.
        target: takes them.
        show: shows each finding.
    """

    def __init__(self, name: str, target: Target, show: Callable[[str], object]) -> None:
        self._name, self._target, self._show = name, target, show
        self._corpus = load(name)
        self._inputs, self._findings = 0, list[str]()
        self._deadline, self._last = float("inf"), self._corpus[0]

    def replay(self, *, slow: bool = True) -> None:
        """Feed the corpus as it is.

        Args:
            slow: also the part of that name.
        """
        for each in self._corpus:
            if each.part == SLOW and not slow:
                continue
            try:
                self._feed(each)
            except Exception as error:  # noqa: BLE001 - every error is a finding
                self._record(error)

    def mutate(self, seed: int, count: int) -> None:
        """Feed up to this many mutated inputs; the seed and the corpus determine which."""

        @hypothesis.seed(seed)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(inputs(self._corpus))
        def feed(drawn: Input) -> None:
            if monotonic() < self._deadline:
                self._feed(drawn)

        try:
            feed()
        except Exception as error:  # noqa: BLE001 - every error is a finding
            self._record(error)

    def run(self, seed: int, seconds: float) -> None:
        """Feed the corpus, then mutated inputs for this long."""
        self._deadline = monotonic() + seconds
        self.replay()
        while monotonic() < self._deadline and len(self._findings) < MAX_FINDINGS:
            self.mutate(seed, ROUND_INPUTS)
            seed += 1

    def finish(self) -> Report:
        """Let the target check itself; return what was found."""
        try:
            self._target.finish()
        except Exception as error:  # noqa: BLE001 - every error is a finding
            self._show(f"at the end: {error}")
            self._findings.append(str(error))
        return Report(self._inputs, self._findings)

    def _feed(self, given: Input) -> None:
        self._inputs += 1
        self._last = given
        self._target.check(given)

    def _record(self, error: Exception) -> None:
        """Keep the input that was fed last: Hypothesis ends with the simplest one that it has found."""
        while isinstance(error, ExceptionGroup):  # Hypothesis could not repeat it
            error = error.exceptions[0]
        path = save(self._name, self._last)
        text = f"{path.relative_to(path.parents[3])}: {type(error).__name__}: {error}"
        self._show(text)
        self._findings.append(text)


def log_to_stderr(text: str) -> None:
    """Write a line."""
    sys.stderr.write(f"{text[:2000]}{os.linesep}")
