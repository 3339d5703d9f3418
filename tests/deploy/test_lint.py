"""The Dockerfile follows the usual rules."""

from testkit import ROOT
from tests.deploy.tools import run, tool


def test_hadolint_finds_nothing() -> None:
    """No rule is broken, and none is switched off."""
    done = run([tool("hadolint", "make install"), ROOT / "deploy/Dockerfile"])
    assert (done.returncode, done.stdout) == (0, "")
