"""``/check``: what the relay needs, checked on demand."""

import os
import threading
from collections import Counter
from typing import NamedTuple

from flask import Blueprint, Response, current_app, redirect, url_for
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response as AnyResponse

from console.access import Role, requires
from console.pages.render import now_ms, page
from relay.check import check_all
from relay.check.finding import Finding, Status

blueprint = Blueprint("check", __name__)
RUNS = "check_runs"
"""Name of the runs among the extensions of the application."""


class CheckResult(NamedTuple):
    """The findings of one run."""

    at_ms: int
    findings: list[Finding]

    @property
    def counts(self) -> Counter[Status]:
        """Number of findings with each status."""
        return Counter(finding.status for finding in self.findings)


class CheckRuns:
    """Runs the checks, one at a time, and keeps the last result."""

    def __init__(self) -> None:
        self._running = threading.Lock()
        self.last: CheckResult | None = None

    @property
    def is_running(self) -> bool:
        """Whether the checks run now."""
        return self._running.locked()

    def run(self) -> bool:
        """Run all checks; return False, without a run, if they run already."""
        if not self._running.acquire(blocking=False):
            return False
        try:
            self.last = CheckResult(now_ms(), list(check_all(os.environ)))
        finally:
            self._running.release()
        return True


@blueprint.record_once
def add_runs(state: BlueprintSetupState) -> None:
    """Add the runs to the application."""
    state.app.extensions[RUNS] = CheckRuns()


@blueprint.get("/check")
@requires(Role.VIEWER)
def show() -> Response:
    """Show the findings of the last run."""
    runs: CheckRuns = current_app.extensions[RUNS]
    return page("check", result=runs.last, running=runs.is_running)


@blueprint.post("/check")
@requires(Role.VIEWER)
def run() -> AnyResponse:
    """Run the checks; while they run for somebody else, say so."""
    runs: CheckRuns = current_app.extensions[RUNS]
    if not runs.run():
        return page("check", 409, result=runs.last, running=True)
    return redirect(url_for("check.show"), 303)
