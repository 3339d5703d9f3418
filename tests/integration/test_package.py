"""The wheel with its pinned requirements, in an environment and a folder that have nothing else."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testkit import ROOT
from testkit.command_line import expect
from testkit.console import KEY, PASSWORD
from testkit.deployment import settings_for
from testkit.ports import free_port
from testkit.services import ExternalService, Kafka, Registry
from testkit.waiting import wait_until
from testkit.web_process import PATH, SECRET

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


class Installation:
    """The product as somebody has it who installed the wheel: its commands, settings, and a folder of their own.

    Args:
        programs: ``bin`` of the environment.
        folder: an empty folder, in which everything runs.
        settings: of the product.
    """

    def __init__(self, programs: Path, folder: Path, settings: dict[str, str]) -> None:
        path = f"{programs}{os.pathsep}{os.defpath}"
        self.environ = {"PATH": path, "LANG": "C.UTF-8", "RELAY_ACTOR": "ann", "LOG_FORMAT": "json", **settings}
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder, env=self.environ, input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def start(self, process: str) -> None:
        """Start a process of the Procfile; what it prints goes to a file beside the folder."""
        with self.folder.with_name(f"{process}.log").open("wb") as log:
            command = ["bash", "-c", f"exec {PROCFILE[process]}"]
            self.started.append(subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=log, stderr=log))

    def url(self, setting: str, path: str) -> str:
        """Address of a path on the port that a setting names."""
        return f"http://127.0.0.1:{self.environ[setting]}{path}"

    def answers(self, setting: str, path: str) -> bool:
        """Whether a GET is answered by 200."""
        try:
            return requests.get(self.url(setting, path), timeout=5).ok
        except requests.ConnectionError:
            return False

    def stop(self) -> list[int]:
        """End every process by SIGTERM and return their exit codes."""
        for process in self.started:
            process.terminate()
        return [process.wait(40) for process in self.started]


@pytest.fixture
def installation(
    empty_environment: Path, kafka: Kafka | ExternalService, registry: Registry | ExternalService, tmp_path: Path
) -> Iterator[Installation]:
    """An installation on SQLite; its processes are killed after the test."""
    folder, users, key = tmp_path / "empty", tmp_path / "users", tmp_path / "key"
    folder.mkdir()
    key.write_text(KEY)
    installation = Installation(
        empty_environment,
        folder,
        {
            **settings_for(kafka, registry, "sqlite:///outbox.db"),
            "CXONE_WEBHOOK_SECRETS": SECRET,
            "WEB_HOST": "127.0.0.1",
            **{name: str(free_port()) for name in ("PORT", "RELAY_METRICS_PORT", "CONSOLE_PORT")},
            "CONSOLE_AUTH": "file",
            "CONSOLE_USERS_FILE": str(users),
            "CONSOLE_SECRET_KEY_FILE": str(key),
        },
    )
    yield installation
    for process in installation.started:
        process.kill()
        process.wait()


def test_the_procfile_works_from_the_wheel_alone(installation: Installation) -> None:
    """Release, web, relay and console: what is posted is sent, the login is shown, SIGTERM ends each."""
    expect(installation.run(PROCFILE["release"]), 0, stdout="schema created at revision")
    _post_and_send(installation)
    _show_the_login(installation)
    assert installation.stop() == [0, 0, 0]
    assert {path.name.partition("-")[0] for path in installation.folder.iterdir()} == {"outbox.db"}


def _post_and_send(installation: Installation) -> None:
    """Post an interaction to web, and wait until the relay has sent it."""
    installation.start("web")
    wait_until(lambda: installation.answers("PORT", "/readyz"), "web is ready")
    body = {"id": "interaction-1", "channel": "voice"}
    headers = {"X-CXone-Webhook-Secret": SECRET}
    answer = requests.post(installation.url("PORT", PATH), json=body, headers=headers, timeout=10)
    assert answer.status_code == 202, answer.text
    installation.start("relay")
    sent = wait_until(lambda: installation.run("relay list --state sent --json").stdout, "the row is sent")
    assert json.loads(sent)["interaction_id"] == "interaction-1"
    expect(installation.run("relay show 1 --verify"), 0)
    for setting in ("PORT", "RELAY_METRICS_PORT"):
        metrics = requests.get(installation.url(setting, "/metrics"), timeout=5).text
        assert f'outbox_build_info{{version="{VERSION}"}} 1' in metrics


def _show_the_login(installation: Installation) -> None:
    """Create a user and start the console: its templates and static files are in the wheel."""
    printed = installation.run("relay console-password ann operator", stdin=f"{PASSWORD}\n")
    expect(printed, 0)
    Path(installation.environ["CONSOLE_USERS_FILE"]).write_text(printed.stdout)
    installation.start("console")
    wait_until(lambda: installation.answers("CONSOLE_PORT", "/readyz"), "the console is ready")
    login = requests.get(installation.url("CONSOLE_PORT", "/login"), timeout=10).text
    assert 'name="password"' in login
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', login)
    assert len(files) >= 5
    assert [path for path in files if not installation.answers("CONSOLE_PORT", path)] == []


def test_the_version_is_that_of_pyproject_toml(wheel_environment: Path) -> None:
    """``relay --version`` reads it from the installed package."""
    done = subprocess.run([wheel_environment / "relay", "--version"], capture_output=True, text=True, check=False)
    expect(done, 0, stdout=VERSION)
