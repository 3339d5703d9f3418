"""Who a relay is, and how another one on its host sees that it is dead."""

import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest

from relay.process_lock import ProcessLock, is_dead


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lock files are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_only_a_process_that_is_certainly_gone_is_dead(folder: Path) -> None:
    """Its file is there, and nobody holds it; one of another host, or without a file, may live."""
    owner = ProcessLock()
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
    owner = ProcessLock()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert not is_dead(owner.id)
    owner.close()
    assert not list(folder.rglob("*.lock"))


@pytest.mark.parametrize("trap", ["open", "link", "file", "foreign"])
def test_a_lock_folder_that_others_may_write_to_is_not_used(
    trap: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever made it first could say of a live relay that it is dead, or have a file of ours written to."""
    place, elsewhere = folder / f"cxone-outbox-relay-{os.getuid()}", folder / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trap == "link":
        place.symlink_to(elsewhere)
    elif trap == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o770 if trap == "open" else 0o700)
        if trap == "foreign":
            if os.getuid():
                pytest.skip("only root can give a folder away")
            os.chown(place, 65534, -1)
    owner = ProcessLock()
    assert not is_dead(owner.id)
    assert f"{place} is not a folder of this user alone: remove it" in capsys.readouterr().out
    if trap != "file":
        (place / f"{owner.id}.lock").touch()
        assert not is_dead(owner.id)
    owner.close()


def test_the_lock_folder_and_its_files_are_the_owners_alone(folder: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    owner = ProcessLock()
    os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    owner.close()
    assert modes == {0o700, 0o600}


def _no_locks(*_: object) -> None:
    raise OSError(37, "No locks available")
