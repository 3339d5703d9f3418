"""The systemd units are valid, and expose little."""

import re
import shutil
from pathlib import Path

import pytest

from testkit import ROOT
from tests.deploy.tools import run, tool

UNITS = (
    "cxone-outbox-migrate",
    "cxone-outbox-web",
    "cxone-outbox-relay",
    "cxone-outbox-console",
    "cxone-outbox-verify",
)
MAX_EXPOSURE = 1.5
"""On systemd's scale, where 10 is a unit without any protection; above 4 it is called medium."""


@pytest.fixture(params=["postgresql", "sqlite"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root folder with the units installed as docs/deployment.md describes."""
    tool("systemd-analyze", "apt-get install systemd")
    installed = tmp_path / "etc/systemd/system"
    shutil.copytree("/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    shutil.copytree(ROOT / "deploy/systemd", installed)
    if request.param == "sqlite":
        shutil.copy(installed / "sqlite.conf", installed / "cxone-outbox-.service.d")
    programs = tmp_path / "opt/cxone-outbox-relay/bin"
    programs.mkdir(parents=True)
    for name in ("gunicorn", "relay"):
        (programs / name).touch(mode=0o755)
    return tmp_path


def test_units_are_valid(root: Path) -> None:
    """Nothing is found to say, not even about an unknown key, for which its exit code would be 0."""
    units = [f"{name}.service" for name in UNITS]
    done = run(["systemd-analyze", "verify", f"--root={root}", "--man=no", *units])
    assert (done.returncode, done.stdout) == (0, "")


def test_an_unknown_key_is_noticed(root: Path) -> None:
    """A misspelt key of the shared drop-in makes the check fail."""
    hardening = root / "etc/systemd/system/cxone-outbox-.service.d/hardening.conf"
    hardening.write_text(hardening.read_text().replace("ProtectHome=", "ProtectHomes="))
    done = run(["systemd-analyze", "verify", f"--root={root}", "--man=no", "cxone-outbox-web.service"])
    assert "ProtectHomes" in done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_units_expose_little(root: Path, name: str) -> None:
    """The overall exposure of each unit is low."""
    done = run(["systemd-analyze", "security", "--offline=true", f"--root={root}", f"{name}.service"])
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= MAX_EXPOSURE, done.stdout
