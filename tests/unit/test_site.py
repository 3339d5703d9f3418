"""The documents build as a site: strictly, complete by itself, and with the structure that GitHub shows."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from testkit import ROOT
from testkit.documentation.site import REPOSITORY, SCRIPTS, verified
from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
BLOCK = re.compile(r"<(h[1-6]|ul|ol|li|table|tr|th|td|pre|blockquote|img|hr)\b")
LOADED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*?src=\"?([^\s\">]+)|<link\b(?![^>]*canonical)[^>]*?href=\"?([^\s\">]+)"
)


def build(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build a site into a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(folder)]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    try:
        for script in SCRIPTS.values():
            verified(script)
    except ServiceError as error:
        skip_or_fail(error)
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def content(site: Path, page: Path) -> str:
    """The HTML of a page's own text."""
    place = site / page.relative_to(DOCS)
    text = (place.with_name("index.html") if page.name == "README.md" else place.with_suffix(".html")).read_text()
    article = re.search(r"<article.*?</article>", text, re.DOTALL)
    assert article, page
    return article[0]


def test_every_page_has_the_structure_that_github_shows(site: Path) -> None:
    """Lists, tables, headings and blocks of code are as many as by GitHub's rules.

    The site's dialect needs a blank line before a list, and four spaces before a list in a list.
    """
    github = MarkdownIt("gfm-like", {"linkify": False})
    differing = {}
    for page in PAGES:
        expected, found = (
            Counter(BLOCK.findall(html)) for html in (github.render(page.read_text()), content(site, page))
        )
        if expected != found:
            differing[page.name] = {tag: (expected[tag], found[tag]) for tag in expected | found}
    assert differing == {}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Scripts, styles and images are files of the site, those that draw diagrams and search included."""
    loaded = {a or b for page in site.glob("**/*.html") for a, b in LOADED.findall(page.read_text())}
    assert [address for address in loaded if re.match(r"(\w+:)?//", address)] == []
    assert {"assets/mermaid.min.js", "assets/iframe-worker.js"} <= loaded
    assert 'class="mermaid"' in content(site, DOCS / "architecture.md")


def test_the_search_is_in_the_site_and_prefers_pages_to_decisions(site: Path) -> None:
    """Without a server the index is read from a script. Decisions are most of it, and seldom what is looked for."""
    index = json.loads((site / "search" / "search_index.js").read_text().removeprefix("var __index = "))
    boosts = {entry["location"].startswith("decisions/"): entry.get("boost", 1) for entry in index["docs"]}
    assert boosts[True] < boosts[False]


def test_links_out_of_the_documents_lead_to_the_repository(site: Path) -> None:
    """A file of the repository has its address there; a page that is named by its file has its title."""
    text = content(site, DOCS / "deployment.md")
    assert f'href="{REPOSITORY}deploy/helm">deploy/helm</a>' in text
    assert 'href="configuration.html">Configuration</a>' in text
    assert re.search(r">[\w-]+\.md</a>", text) is None


def test_a_broken_link_anchor_or_navigation_fails_the_build(site: Path, tmp_path: Path) -> None:
    """A link to a missing page, to a missing heading, and out of the documents to nothing; a page without a place."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# One\n\n[a](gone.md) [b](#gone) [c](../gone.toml) [d](../../gone/)\n")
    (docs / "lost.md").write_text("# Lost\n")
    config = {
        "INHERIT": str(ROOT / "mkdocs.yml"),
        "docs_dir": str(docs),
        "hooks": [str(ROOT / "testkit/documentation/site.py")],
        "nav": ["index.md", "missing.md"],
    }
    (tmp_path / "mkdocs.yml").write_text(json.dumps(config))
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    for name in ("'gone.md'", "'#gone'", "'../gone.toml'", "'../../gone/'", "lost.md", "'missing.md'"):
        assert name in said, said
