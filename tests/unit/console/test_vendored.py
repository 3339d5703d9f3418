"""The files of others are those that their packages have, and are listed with version and licence."""

import hashlib
import re

from testkit import ROOT, npm
from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail

VENDOR = ROOT / "console" / "static" / "vendor"
IN_PACKAGES = {
    "htmx.min.js": "dist/htmx.min.js",
    "htmx.LICENSE": "LICENSE",
    "pico.min.css": "css/pico.min.css",
    "pico.LICENSE": "LICENSE.md",
}
"""Where each file is in its package."""


def manifest() -> list[list[str]]:
    """Return the fields of each line of the list."""
    lines = (VENDOR / "MANIFEST").read_text().splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def test_vendored_files_are_the_listed_ones() -> None:
    """Each has its SHA-256; there is no other, and each package has its licence beside it."""
    lines = manifest()
    listed = {name: digest for name, _, _, _, digest in lines}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir()}
    del found["MANIFEST"]
    assert found == listed
    packages = {package for _, package, *_ in lines}
    assert packages == {package for name, package, *_ in lines if name.endswith(".LICENSE")}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for _, _, version, _, _ in lines)


def test_the_files_name_their_versions() -> None:
    """The list is not about other versions."""
    manifest = (VENDOR / "MANIFEST").read_text()
    pico = re.search(r"Pico CSS .* v([\d.]+)", (VENDOR / "pico.min.css").read_text()[:300])
    htmx = re.search(r'version:"([\d.]+)"', (VENDOR / "htmx.min.js").read_text())
    assert pico
    assert htmx
    assert f"@picocss/pico  {pico[1]} " in manifest
    assert f"htmx.org  {htmx[1]} " in manifest


def test_the_files_are_those_of_their_packages() -> None:
    """Each has the bytes that the npm registry serves for the listed version."""
    try:
        folders = {name: npm.unpack(package, version) for name, package, version, _, _ in manifest()}
    except ServiceError as error:
        skip_or_fail(error)
    published = {name: (folder / IN_PACKAGES[name]).read_bytes() for name, folder in folders.items()}
    assert [name for name in published if (VENDOR / name).read_bytes() != published[name]] == []
