"""Hooks of MkDocs: what mkdocs.yml cannot say by itself.

The pages are written for GitHub as well. So headings get GitHub's anchors; a link out of docs/, which leads to a file
there, gets the repository's address here; and one whose text is the name of a page gets the page's title.
"""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from testkit import ROOT, npm

URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
REPOSITORY = URLS["Changelog"].removesuffix("CHANGELOG.md")
"""Followed by a path, the address of a file."""
OUTWARD_LINK = re.compile(r"(?<=]\()(?:\.\./)+[^)\s#]*")
PAGE_NAME = re.compile(r"\[([\w-]+\.md)]\((?=((?:\.\./)*\1))")


class Script(NamedTuple):
    """A script of the npm registry that the pages load from the site itself."""

    package: str
    version: str
    path: str
    sha256: str


SCRIPTS = {
    # Draws the diagrams. The theme loads it from elsewhere unless the page has it; it is written for version 11.
    "assets/mermaid.min.js": Script(
        "mermaid",
        "11.17.2",
        "dist/mermaid.min.js",
        "581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8",
    ),
    # Lets the search run in a page that was opened from the disk. Named in mkdocs.yml as well.
    "assets/iframe-worker.js": Script(
        "iframe-worker",
        "1.0.4",
        "shim/index.js",
        "e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609",
    ),
}


def on_config(config: MkDocsConfig) -> None:
    """Take the address from pyproject.toml, and put the pages of folders into the navigation."""
    config.site_url = URLS["Documentation"] + "/"
    for section in config.nav or ():
        _expand_folders(section, Path(config.docs_dir))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the scripts."""
    for name, script in SCRIPTS.items():
        files.append(File.generated(config, name, abs_src_path=str(verified(script))))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Adapt the links. MkDocs reports what leads to no file."""
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def title(link: re.Match[str]) -> str:
        target = folder / link[2]
        heading = target.read_text().partition("\n")[0] if target.exists() else link[1]
        return f"[{heading.removeprefix('# ')}]("

    def address(link: re.Match[str]) -> str:
        target = (folder / link[0]).resolve()
        inside = not target.exists() or target.is_relative_to(config.docs_dir)
        return link[0] if inside else REPOSITORY + target.relative_to(ROOT).as_posix()

    if page.file.src_uri.startswith("decisions/"):
        page.meta["search"] = {"boost": 0.1}  # there are more of them than of all other pages
    return OUTWARD_LINK.sub(address, PAGE_NAME.sub(title, markdown))


def github_anchor(heading: str, separator: str = "-") -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def verified(script: Script) -> Path:
    """The script's file, downloaded on first use.

    Raises:
        ServiceError: npm is missing, or the package cannot be downloaded.
        ValueError: it is another file than was reviewed.
    """
    path = npm.unpack(script.package, script.version) / script.path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != script.sha256:
        raise ValueError(f"{path} has the SHA-256 {digest}, expected {script.sha256}")
    return path


def _expand_folders(section: Any, docs: Path) -> None:
    """Replace each folder of a section by its pages; its README.md is the first by its name."""
    if not isinstance(section, dict):
        return
    for title, entry in section.items():
        if isinstance(entry, list):
            for each in entry:
                _expand_folders(each, docs)
        elif entry.endswith("/"):
            pages = sorted((docs / entry).glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
            section[title] = [entry + page.name for page in pages]
