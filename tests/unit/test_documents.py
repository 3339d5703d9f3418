"""The documents refer only to what exists: files, headings, and modules of this repository."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit import ROOT
from testkit.documentation.site import github_anchor

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PACKAGES = "app|config|console|deploy|outbox|relay|migrations|testkit|tests|bench|examples"
NAMED_PATH = re.compile(rf"`((?:{PACKAGES})/[\w./-]*)`")


def prose(document: Path) -> str:
    """The text of a document without its code blocks."""
    return FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {github_anchor(heading) for heading in headings}


def broken_links(document: Path) -> Iterator[str]:
    """Relative links that point to no file, or to no heading."""
    for link in LINK.findall(prose(document)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_heading(document: Path) -> None:
    """A link to a file or an anchor that does not exist fails, with its text."""
    assert list(broken_links(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_named_module_exists(document: Path) -> None:
    """A path of one of the packages in backticks is a file or folder of the repository."""
    assert [path for path in NAMED_PATH.findall(prose(document)) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_named_test_exists(document: Path) -> None:
    """A test that a document names as evidence is one."""
    written = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    missing = [name for name in re.findall(r"`(test_\w+)`", prose(document)) if f"def {name}(" not in written]
    assert missing == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A missing file, a missing heading, and a link inside a code block, which is no link."""
    document = tmp_path / "a.md"
    document.write_text("# One `two`\n[a](#one-two) [b](b.md) [c](#three) [d](https://x.org)\n```\n[e](e.md)\n```\n")
    assert list(broken_links(document)) == ["b.md", "#three"]


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    """Each record has the next number, the common headings, and a line in the index."""
    folder = ROOT / "docs" / "decisions"
    records = sorted(folder.glob("[0-9]*.md"))
    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    index = (folder / "README.md").read_text()
    for record in records:
        text = record.read_text()
        parts = ("\n- Status: ", "\n- Date: ", "\n## Context\n", "\n## Decision\n", "\n## Consequences\n")
        missing = [part.strip() for part in parts if part not in text]
        assert missing == [], record.name
        title = text.partition("\n")[0].removeprefix(f"# {record.name[:4]}. ")
        assert f"[{record.name[:4]}]({record.name}) | {title} |" in index, record.name
