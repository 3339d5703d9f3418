"""Every platform starts the processes of the Procfile."""

import os
import re
import shlex
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest
import yaml

from deploy.entrypoint import PROCESSES
from testkit import ROOT

PROCFILE = {
    name: shlex.split(command)
    for name, _, command in (line.partition(": ") for line in (ROOT / "Procfile").read_text().splitlines())
}
PROCFILE["relay"].remove("-m")
PROCFILE["relay"].remove("python")


def exec_start(unit: Path) -> list[str]:
    """Return the command of a systemd unit, without the folder of its program."""
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    program, *arguments = shlex.split(parser["Service"]["ExecStart"])
    return [Path(program).name, *arguments]


@pytest.mark.parametrize("name", ["web", "relay", "console"])
def test_image_and_units_start_what_the_procfile_starts(name: str) -> None:
    """The same command in the Procfile, in the image and in the systemd unit."""
    assert PROCESSES[name] == PROCFILE[name]
    assert exec_start(ROOT / f"deploy/systemd/cxone-outbox-{name}.service") == PROCFILE[name]


def test_every_release_is_a_migration() -> None:
    """The Procfile's release and the migration's unit run the same command."""
    assert exec_start(ROOT / "deploy/systemd/cxone-outbox-migrate.service") == PROCFILE["release"]


def test_the_verification_is_watched_and_scraped_alike() -> None:
    """The same command in the systemd unit and in Compose, and the port that Prometheus scrapes."""
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    command = exec_start(ROOT / "deploy/systemd/cxone-outbox-verify.service")
    assert command == ["relay", *compose["services"]["verify"]["command"]]
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    (targets,) = (job["static_configs"][0]["targets"] for job in jobs if job["job_name"] == "cxone-outbox-verify")
    assert targets == [f"verify:{command[-1]}"]


def test_the_entry_point_runs_other_commands_by_relay(tmp_path: Path) -> None:
    """What names no process is a command of ``relay``, with its options and its exit code."""
    command = [sys.executable, str(ROOT / "deploy/entrypoint.py"), "migrate", "--check"]
    environ = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/outbox.db"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert "run relay migrate" in done.stderr


def test_compose_is_consistent() -> None:
    """Services, secrets and settings that are named exist, and each secret is given to whom reads it."""
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    services, ours = compose["services"], ("migrate", "web", "relay", "console", "verify")
    for name in ours:
        service = services[name]
        assert service["command"][0] == name
        assert service["depends_on"].keys() <= services.keys()
        files = {value for value in service["environment"].values() if value.startswith("/run/secrets/")}
        assert files == {f"/run/secrets/{secret}" for secret in service["secrets"]}, name
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    assert {secret for service in services.values() for secret in service.get("secrets", [])} == compose[
        "secrets"
    ].keys()


def test_the_image_is_built_from_what_is_needed() -> None:
    """Each file that the Dockerfile copies, and each package, passes ``.dockerignore``."""
    passed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in passed)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    assert {name for line in copied for name in line.split()} - {"."} <= passed
    assert {"app", "config", "console", "migrations", "outbox", "relay", "pyproject.toml", "README.md"} <= passed
