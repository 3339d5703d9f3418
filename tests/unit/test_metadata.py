"""The package's metadata agrees with what is in the repository."""

import re
import tomllib

from testkit import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_workflow_runs_each_python_of_the_classifiers() -> None:
    """A version is claimed only if CI runs the tests on it."""
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", (ROOT / ".github/workflows/test.yml").read_text(), re.MULTILINE)
    assert classifiers == re.findall(r"3\.\d+", matrix)
    assert f">={classifiers[0]}" == PROJECT["project"]["requires-python"]


def test_each_package_is_typed() -> None:
    """Type checkers of those who import a package use its annotations."""
    packages = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    data = PROJECT["tool"]["setuptools"]["package-data"]
    missing = [name for name in sorted(packages) if not (ROOT / name / "py.typed").is_file()]
    assert missing == []
    unlisted = [name for name in sorted(packages) if "py.typed" not in data.get(name, [])]
    assert unlisted == []


def test_the_changelog_has_a_section_for_the_version() -> None:
    """The version in ``pyproject.toml`` is the newest one of the changelog."""
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == PROJECT["project"]["version"]
