"""A release: the same bytes each time, complete, checked, and built from a commit."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from testkit.release import Release, ReleaseError, build_release, current_commit, export, problems
from testkit.wheel import EPOCH, copy_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree."""
    return copy_source(tmp_path_factory.mktemp("release") / "source")


@pytest.fixture(scope="module")
def release(source: Path) -> Release:
    """A release of it."""
    output = source.with_name("dist")
    output.mkdir()
    return build_release(source, output, EPOCH)


@pytest.fixture
def copied(release: Release, tmp_path: Path) -> Release:
    """A copy of the release, to spoil."""
    return Release(*(Path(shutil.copy(path, tmp_path)) for path in release))


def test_two_builds_are_byte_identical(release: Release, tmp_path: Path) -> None:
    """Whatever the times and modes of the source files are, and whenever they were built."""
    other = copy_source(tmp_path / "other")
    for number, path in enumerate(other.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (number, number))
    output = tmp_path / "dist"
    output.mkdir()
    again = build_release(other, output, EPOCH)
    for first, second in zip((*release, release.sums), (*again, again.sums), strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes(), first.name


def test_the_sdist_builds_the_same_wheel(release: Release, tmp_path: Path) -> None:
    """As pip builds it, for the same time."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    command = [*pip, "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(release.sdist)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(command, env=environ, umask=0o022, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / release.wheel.name).read_bytes() == release.wheel.read_bytes()


def test_the_hashes_are_those_of_the_files(release: Release) -> None:
    """``SHA256SUMS`` has a line for each file, in the format of sha256sum."""
    listed = dict(line.split("  ")[::-1] for line in release.sums.read_text().splitlines())
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release}


def test_a_complete_release_has_no_problem(source: Path, release: Release) -> None:
    """Each file of the packages is in the wheel, the licence too; no tests; the SBOM lists every requirement."""
    assert list(problems(source, release)) == []


def test_missing_and_superfluous_files_are_named(source: Path, copied: Release) -> None:
    """In the wheel: a template that is missing, a test that slipped in, no licence."""
    with ZipFile(copied.wheel) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    (licence,) = (name for name in contents if name.endswith("/LICENSE"))
    del contents["console/templates/login.html"], contents[licence]
    contents["tests/test_x.py"] = b""
    with ZipFile(copied.wheel, "w") as written:
        for name, content in contents.items():
            written.writestr(name, content)
    assert list(problems(source, copied)) == [
        "the wheel lacks console/templates/login.html",
        "the wheel contains tests/test_x.py",
        f"{copied.wheel.name} does not contain LICENSE",
    ]


def test_an_sdist_with_tests_is_named(source: Path, copied: Release) -> None:
    """And what it lacks."""
    top = copied.sdist.name.removesuffix(".tar.gz")
    with tarfile.open(copied.sdist, "w:gz") as written:
        for name in ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "requirements.txt", "tests/test_x.py"):
            written.addfile(tarfile.TarInfo(f"{top}/{name}"))
    assert list(problems(source, copied)) == ["the sdist lacks Procfile", "the sdist contains tests/test_x.py"]


def test_a_requirement_that_the_sbom_lacks_is_named(source: Path, copied: Release) -> None:
    """By its name and version."""
    with copied.requirements.open("a") as requirements:
        requirements.write("unlisted==1.0 \\\n    --hash=sha256:00\n")
    assert list(problems(source, copied)) == ["the SBOM lacks unlisted 1.0"]


def test_the_sbom_lists_what_the_console_brings(release: Release) -> None:
    """Files of other packages that stand in this one, with version and licence."""
    components = {each["name"]: each for each in json.loads(release.sbom.read_text())["components"]}
    assert components["htmx.org"]["licenses"] == [{"license": {"id": "0BSD"}}]
    assert components["@picocss/pico"]["purl"].startswith("pkg:npm/%40picocss/pico@2.")


def test_an_sbom_that_no_reader_would_take_is_named(source: Path, copied: Release) -> None:
    """It is compared with the schema of its version."""
    copied.sbom.write_text(copied.sbom.read_text().replace('"type": "library"', '"type": "book"'))
    assert any("not valid" in found for found in problems(source, copied))


def test_the_chart_is_packed_whole(source: Path, release: Release) -> None:
    """Every file of it, in a folder of its name, as helm wants it."""
    folder = source / "deploy" / "helm"
    with tarfile.open(release.chart) as packed:
        found = {member.name: file.read() for member in packed if (file := packed.extractfile(member))}
    expected = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {f"cxone-outbox-relay/{name}": content for name, content in expected.items()}


def test_a_chart_of_another_version_is_named(source: Path, copied: Release) -> None:
    """It would install another image than the one of the release."""
    with tarfile.open(copied.chart, "w:gz") as written:
        content = b"version: 0.1.0\nappVersion: 0.0.9\n"
        member = tarfile.TarInfo("cxone-outbox-relay/Chart.yaml")
        member.size = len(content)
        written.addfile(member, io.BytesIO(content))
    (found,) = problems(source, copied)
    assert "0.0.9" in found


def test_invalid_metadata_is_named(source: Path, copied: Release) -> None:
    """A licence that is no SPDX expression, as an index would refuse it."""
    with ZipFile(copied.wheel) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    (name,) = (name for name in contents if name.endswith("/METADATA"))
    contents[name] = contents[name].replace(b"License-Expression: Apache-2.0", b"License-Expression: Apachy")
    with ZipFile(copied.wheel, "w") as written:
        for each, content in contents.items():
            written.writestr(each, content)
    (found,) = problems(source, copied)
    assert "Apachy" in found


def git(folder: Path, *arguments: str) -> None:
    """Run git as an author of its own."""
    identity = ["-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_release_is_built_from_a_commit(tmp_path: Path) -> None:
    """What is not committed is refused by name; what is exported are the files of the commit."""
    folder, target = tmp_path / "checkout", tmp_path / "export"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "a.py").write_text("first")
    git(folder, "add", "a.py")
    git(folder, "commit", "--quiet", "-m", "Add a")
    commit = current_commit(folder)
    (folder / "a.py").write_text("second")
    export(folder, commit, target)
    assert (target / "a.py").read_text() == "first"
    with pytest.raises(ReleaseError, match=r"M a\.py"):
        current_commit(folder)
