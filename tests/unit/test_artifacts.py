"""What the tests download: used only if each file is the one that was listed."""

import hashlib
from pathlib import Path

import pytest

from testkit.services import ServiceError
from testkit.services.java import verify


@pytest.fixture
def fetched(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with two files, and the list of their hashes."""
    folder, listed = tmp_path / "jars", tmp_path / "artifacts.sha256"
    folder.mkdir()
    lines = []
    for name in ("a.jar", "b c.jar"):
        (folder / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    listed.write_text("".join(lines))
    return folder, listed


def test_listed_files_are_taken(fetched: tuple[Path, Path]) -> None:
    """Each has the hash of its own line; one that is listed need not be there."""
    folder, listed = fetched
    verify(folder, listed)
    (folder / "a.jar").unlink()
    verify(folder, listed)


@pytest.mark.parametrize(("name", "content"), [("a.jar", b"b c.jar"), ("a.jar", b""), ("c.jar", b"a.jar")])
def test_another_file_is_refused_by_name(fetched: tuple[Path, Path], name: str, content: bytes) -> None:
    """One that was changed, exchanged or added ends the start of the services."""
    folder, listed = fetched
    (folder / name).write_bytes(content)
    with pytest.raises(ServiceError, match=f"{name} has the SHA-256"):
        verify(folder, listed)
