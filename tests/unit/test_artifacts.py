"""Downloads of the tests are used only if their hashes are listed."""

import hashlib
from pathlib import Path

import pytest

from testkit.services import ServiceError
from testkit.services.java import verify


@pytest.fixture
def fetched(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with two files, and a list of their hashes."""
    folder, listed = tmp_path / "jars", tmp_path / "artifacts.sha256"
    folder.mkdir()
    lines = []
    for name in ("a.jar", "b c.jar"):
        (folder / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    listed.write_text("".join(lines))
    return folder, listed


def test_listed_files_are_accepted(fetched: tuple[Path, Path]) -> None:
    """Each file has its listed hash; a listed file may be absent."""
    folder, listed = fetched
    verify(folder, listed)
    (folder / "a.jar").unlink()
    verify(folder, listed)


@pytest.mark.parametrize(("name", "content"), [("a.jar", b"b c.jar"), ("a.jar", b""), ("c.jar", b"a.jar")])
def test_an_unlisted_file_is_refused_by_name(fetched: tuple[Path, Path], name: str, content: bytes) -> None:
    """A changed, exchanged or added file stops the services from starting."""
    folder, listed = fetched
    (folder / name).write_bytes(content)
    with pytest.raises(ServiceError, match=f"{name} has the SHA-256"):
        verify(folder, listed)
