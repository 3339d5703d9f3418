"""Build a release of the current commit into ``dist/`` and check it: ``make release``.

The wheel, the sdist, the pinned requirements, a CycloneDX SBOM of them, the Helm chart, and the hashes of all five. The
same commit,
built with the same Python and tools, gives the same bytes: every time and mode is set, and the wheel is built from the
sdist. Nothing is uploaded.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import ZipFile

import yaml
from cyclonedx.schema import SchemaVersion
from packaging.metadata import Metadata

from testkit import ROOT

DIST = ROOT / "dist"
SUMS = "SHA256SUMS"
_HOOK = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


class ReleaseError(Exception):
    """No release can be made; the message says why."""


class Commit(NamedTuple):
    """A commit, and when it was made, in seconds since the epoch."""

    number: str
    epoch: int


class Release(NamedTuple):
    """The files of a release."""

    wheel: Path
    sdist: Path
    requirements: Path
    sbom: Path
    chart: Path

    @property
    def sums(self) -> Path:
        """The file with the hashes of all the others."""
        return self.wheel.with_name(SUMS)


def build_packages(source: Path, output: Path, epoch: int) -> tuple[Path, Path]:
    """Build the sdist of a source tree, and the wheel of the sdist.

    Args:
        source: the tree; setuptools leaves files in it.
        output: an existing folder for both.
        epoch: time of every file in them, in seconds since the epoch.

    Returns:
        The wheel and the sdist.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        _run_hook("build_sdist", source, folder, epoch)
        (raw,) = folder.glob("*.tar.gz")
        sdist = _normalize(raw, output / raw.name, epoch)
        with tarfile.open(sdist) as packed:
            packed.extractall(folder, filter="data")
        _run_hook("build_wheel", folder / raw.name.removesuffix(".tar.gz"), output, epoch)
    (wheel,) = output.glob("*.whl")
    return wheel, sdist


def _run_hook(hook: str, source: Path, output: Path, epoch: int) -> None:
    """Run a hook of setuptools (PEP 517) in a source tree."""
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = [sys.executable, "-P", "-c", _HOOK, hook, str(output)]
    done = subprocess.run(command, cwd=source, env=environ, umask=0o022, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{hook} failed:\n{done.stdout}{done.stderr}")


def _normalize(raw: Path, path: Path, epoch: int) -> Path:
    """Write an sdist again without what depends on the machine: order, owners, modes and times."""
    with tarfile.open(raw) as packed, _new_archive(path, epoch) as written:
        for member in sorted(packed.getmembers(), key=lambda each: each.name):
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.size, plain.mtime = member.type, member.size, epoch
            plain.mode = 0o755 if member.isdir() else 0o644
            written.addfile(plain, packed.extractfile(member))
    return path


@contextmanager
def _new_archive(path: Path, epoch: int) -> Iterator[tarfile.TarFile]:
    """Write a compressed tar file that does not contain the time of its making."""
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=epoch) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as written,
    ):
        yield written


def build_release(source: Path, output: Path, epoch: int) -> Release:
    """Build a release of a source tree, and check it.

    Args:
        source: the tree; setuptools leaves files in it.
        output: an empty folder.
        epoch: time of the commit, in seconds since the epoch.

    Raises:
        ReleaseError: a build failed, or a check of what was built.
    """
    wheel, sdist = build_packages(source, output, epoch)
    name = sdist.name.removesuffix(".tar.gz")
    requirements, sbom = output / f"{name}-requirements.txt", output / f"{name}.cdx.json"
    release = Release(wheel, sdist, requirements, sbom, _pack_chart(source, output, epoch))
    shutil.copyfile(source / "requirements.txt", release.requirements)
    _write_sbom(source, release.sbom)
    if found := list(problems(source, release)):
        raise ReleaseError("\n".join(found))
    release.sums.write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in sorted(release)))
    return release


def _pack_chart(source: Path, output: Path, epoch: int) -> Path:
    """Pack the Helm chart as ``helm package`` does."""
    folder = source / "deploy" / "helm"
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    path = output / f"{chart['name']}-{chart['version']}.tgz"
    with _new_archive(path, epoch) as written:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            content = file.read_bytes()
            member = tarfile.TarInfo(f"{chart['name']}/{file.relative_to(folder)}")
            member.size, member.mtime, member.mode = len(content), epoch, 0o644
            written.addfile(member, io.BytesIO(content))
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_sbom(source: Path, path: Path) -> None:
    """Write the SBOM of the pinned requirements and the console's vendored files, without time and serial number."""
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible"]
    command += ["--output-format", "JSON", "--output-file", str(path)]
    command += ["--pyproject", "pyproject.toml", "requirements.txt"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"the SBOM could not be written:\n{done.stdout}{done.stderr}")
    sbom = json.loads(path.read_text())
    sbom["components"] += _vendored(source)
    path.write_text(json.dumps(sbom, indent=2) + "\n")


def _vendored(source: Path) -> list[dict[str, object]]:
    """The npm packages whose files are in the console, as components."""
    lines = (source / "console" / "static" / "vendor" / "MANIFEST").read_text().splitlines()
    packages = sorted({tuple(line.split()[1:4]) for line in lines if not line.startswith("#")})
    return [
        {
            "type": "library",
            "bom-ref": f"vendored-{package}",
            "name": package,
            "version": version,
            "licenses": [{"license": {"id": licence}}],
            "purl": f"pkg:npm/{package.replace('@', '%40')}@{version}",
        }
        for package, version, licence in packages
    ]


def problems(source: Path, release: Release) -> Iterator[str]:
    """What is wrong with a release: contents, metadata, licence, SBOM."""
    project = tomllib.loads((source / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    with ZipFile(release.wheel) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    yield from _content_problems(source, {name.partition(".")[0] for name in packages}, contents)
    info = next(name.partition("/")[0] for name in contents if name.endswith(".dist-info/METADATA"))
    yield from _metadata_problems(project["project"], contents[f"{info}/METADATA"])
    if contents.get(f"{info}/licenses/LICENSE") != (source / "LICENSE").read_bytes():
        yield f"{release.wheel.name} does not contain LICENSE"
    yield from _sdist_problems(release.sdist)
    yield from _sbom_problems(release)
    yield from _chart_problems(release.chart, project["project"]["version"])


def _content_problems(source: Path, packages: set[str], contents: dict[str, bytes]) -> Iterator[str]:
    """The wheel holds each file of the packages, templates and SQL included, and nothing besides."""
    expected = {
        str(path.relative_to(source))
        for package in packages
        for path in (source / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    found = {name for name in contents if ".dist-info/" not in name}
    yield from (f"the wheel lacks {name}" for name in sorted(expected - found))
    yield from (f"the wheel contains {name}" for name in sorted(found - expected))


def _metadata_problems(project: dict[str, object], content: bytes) -> Iterator[str]:
    """The metadata is valid by the standard, and is that of ``pyproject.toml``."""
    try:
        metadata = Metadata.from_email(content, validate=True)
    except ExceptionGroup as group:
        yield from (f"metadata: {error}" for error in group.exceptions)
        return
    found = (metadata.name, str(metadata.version), metadata.license_expression, metadata.license_files)
    expected = (project["name"], project["version"], project["license"], project["license-files"])
    if found != expected:
        yield f"metadata: found {found}, expected {expected}"
    if metadata.description_content_type != "text/markdown" or not metadata.description:
        yield "metadata: the README is missing"


def _sdist_problems(sdist: Path) -> Iterator[str]:
    """The sdist holds what builds and runs the wheel, and no tests."""
    top = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as packed:
        names = {name.removeprefix(f"{top}/") for name in packed.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "Procfile", "pyproject.toml", "requirements.txt"}
    yield from (f"the sdist lacks {name}" for name in sorted(wanted - names))
    unwanted = [name for name in sorted(names) if re.match(r"(tests|testkit|bench|examples)(/|$)", name)]
    yield from (f"the sdist contains {name}" for name in unwanted)


def _chart_problems(chart: Path, version: str) -> Iterator[str]:
    """The chart is of this version, and installs the image of this version."""
    with tarfile.open(chart) as packed:
        file = packed.extractfile(f"{chart.name.removesuffix(f'-{version}.tgz')}/Chart.yaml")
        about = yaml.safe_load(file) if file else {}
    if (found := (about.get("version"), about.get("appVersion"))) != (version, version):
        yield f"the chart's version and appVersion are {found}, expected {version}"


def _sbom_problems(release: Release) -> Iterator[str]:
    """The SBOM is valid, and lists each pinned requirement with its version."""
    text = release.sbom.read_text()
    # Its import compiles dozens of grammars: half of the time that pytest would need to start.
    from cyclonedx.validation.json import JsonStrictValidator

    version = SchemaVersion.from_version(json.loads(text)["specVersion"])
    if error := JsonStrictValidator(version).validate_str(text):
        yield f"the SBOM is not valid: {error}"
    pinned = set(re.findall(r"^([\w.-]+)==([^\s;\\]+)", release.requirements.read_text(), re.MULTILINE))
    components = json.loads(text)["components"]
    listed = {(each["name"], each["version"]) for each in components}
    yield from (f"the SBOM lacks {name} {version}" for name, version in sorted(pinned - listed))


def current_commit(folder: Path) -> Commit:
    """The commit that is checked out in a folder.

    Raises:
        ReleaseError: there is none, or files differ from it.
    """
    if changed := _git(folder, "status", "--porcelain").decode():
        raise ReleaseError(f"a release is built from a commit; commit or remove these first:\n{changed.rstrip()}")
    number, epoch = _git(folder, "log", "-1", "--format=%H %ct").decode().split()
    return Commit(number, int(epoch))


def export(folder: Path, commit: Commit, target: Path) -> None:
    """Write the files of a commit into a folder."""
    archive = _git(folder, "archive", "--format=tar", commit.number)
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(target, filter="data")


def _git(folder: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise ReleaseError("git is missing: a release is built from a commit") from None
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout


def _report(release: Release, commit: Commit) -> str:
    made = "\n".join(f"  {path.name:55} {path.stat().st_size:9,} bytes" for path in sorted([*release, release.sums]))
    made_at = datetime.fromtimestamp(commit.epoch, UTC)
    python = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    return f"""\
{DIST.relative_to(ROOT)}/
{made}

Built from commit {commit.number}, {made_at:%Y-%m-%d %H:%M:%S} UTC. Nothing was uploaded.
To verify the files, in their folder:
  sha256sum --check {SUMS}
To verify the build, check out that commit and run make release with {python}: {SUMS} is the same.
To install, in a virtual environment of its own:
  pip install --require-hashes --only-binary :all: -r {release.requirements.name}
  pip install --no-deps {release.wheel.name}
On Kubernetes:
  helm install outbox {release.chart.name} --values values.yaml
"""


def main() -> None:
    """Build and check a release of the commit that is checked out, and say what was made."""
    try:
        commit = current_commit(ROOT)
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        with TemporaryDirectory() as name:
            export(ROOT, commit, Path(name))
            release = build_release(Path(name), DIST, commit.epoch)
    except ReleaseError as error:
        sys.exit(f"no release was made: {error}")
    sys.stdout.write(_report(release, commit))


if __name__ == "__main__":
    main()
