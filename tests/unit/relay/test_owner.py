"""Who a relay is, and how another one on its host sees that it is dead."""

import fcntl
import tempfile
from pathlib import Path

import pytest

from relay.owner import Owner, is_dead


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lock files are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_only_a_process_that_is_certainly_gone_is_dead(folder: Path) -> None:
    """Its file is there, and nobody holds it; one of another host, or without a file, may live."""
    owner = Owner()
    assert not is_dead(owner.id)
    assert owner._file is not None
    fcntl.flock(owner._file, fcntl.LOCK_UN)  # as the kernel does at any death
    assert is_dead(owner.id)
    assert not is_dead(f"elsewhere:{owner.id}")
    owner.close()
    assert not is_dead(owner.id)
    assert not list(folder.rglob("*.lock"))


@pytest.mark.parametrize("refused", ["folder", "lock"])
def test_without_a_lock_file_a_relay_runs_all_the_same(
    refused: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes it for dead."""
    if refused == "folder":
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    else:
        monkeypatch.setattr(fcntl, "flock", _no_locks)
    owner = Owner()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert not is_dead(owner.id)
    owner.close()
    assert not list(folder.rglob("*.lock"))


def _no_locks(*_: object) -> None:
    raise OSError(37, "No locks available")
