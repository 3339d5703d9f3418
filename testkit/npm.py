"""Packages of the npm registry."""

import shutil
import subprocess
import tarfile
from pathlib import Path

from testkit.services.java import cached
from testkit.services.process import ServiceError


def unpack(package: str, version: str) -> Path:
    """Download a package unless it is cached, and return the folder with its files. Nothing of it is run.

    Raises:
        ServiceError: npm is missing, or the package cannot be downloaded.
    """
    with cached(f"npm-{package.replace('/', '-')}-{version}") as (folder, building):
        if building:
            _download(f"{package}@{version}", building)
    return folder / "package"


def _download(name: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ServiceError("npm is missing: apt-get install npm, or brew install node")
    command = [npm, "pack", name, "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=folder)
    if done.returncode:
        raise ServiceError(f"npm could not download {name}:\n{(done.stdout + done.stderr)[-1500:]}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
