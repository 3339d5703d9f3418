"""Fixtures with the product's packages, and environments with the product installed from its wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from testkit import ROOT
from testkit.databases import TEMPLATES
from testkit.release import build_packages
from testkit.services.java import cached

EPOCH = 1_767_225_600
"""Time of the files in packages that tests build, in seconds since the epoch."""
SOURCES = (
    "app", "config", "console", "deploy", "migrations", "outbox", "relay",
    "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "Procfile", "requirements.txt",
)  # fmt: skip
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def copy_source(target: Path) -> Path:
    """Copy what the packages are built from into a new folder, and return it."""
    target.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="session")
def packages() -> tuple[Path, Path]:
    """The wheel and the sdist, which all processes of a test run share."""
    with cached("packages", Path(os.environ[TEMPLATES])) as (folder, building):
        if building:
            build_packages(copy_source(building / "source"), building, EPOCH)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="session")
def wheel_environment(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a virtual environment with the wheel; it uses the dependencies of this one."""
    environment = _create(tmp_path_factory.mktemp("wheel") / "venv")
    _run([*PIP, "--python", str(environment / "bin/python"), "install", "--no-deps", str(packages[0])])
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return environment / "bin"


@pytest.fixture(scope="session")
def empty_environment(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a virtual environment with the pinned requirements and the wheel, and nothing else."""
    environment = _create(tmp_path_factory.mktemp("empty") / "venv")
    pip = [*PIP, "--python", str(environment / "bin/python")]
    _run([*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", str(ROOT / "requirements.txt")])
    _run([*pip, "install", "--no-deps", str(packages[0])])
    _run([*pip, "check"])
    return environment / "bin"


def _create(environment: Path) -> Path:
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    return environment


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
