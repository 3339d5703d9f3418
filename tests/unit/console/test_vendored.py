"""The files of others are those that their packages have, and are listed with version and licence."""

import hashlib
import re

from testkit import ROOT

VENDOR = ROOT / "console" / "static" / "vendor"


def test_vendored_files_are_the_listed_ones() -> None:
    """Each has its SHA-256; there is no other, and each package has its licence beside it."""
    lines = [line.split() for line in (VENDOR / "MANIFEST").read_text().splitlines() if not line.startswith("#")]
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
