"""How a relay sees that another relay on its host is dead."""

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from relay.process_lock import ProcessLock, is_dead

OWN_A_LOCK = "from relay.process_lock import ProcessLock; x = ProcessLock(); print(x.owner_id, flush=True); input()"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, of this process and its children."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_process_is_dead_once_it_was_killed() -> None:
    """The kernel releases its lock."""
    command = [sys.executable, "-c", OWN_A_LOCK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        assert not is_dead(owner)
        process.kill()
        process.wait()
    assert is_dead(owner)
    assert not is_dead(f"elsewhere:{owner}"), "a process of another host may be alive"


def test_a_process_that_released_its_lock_is_not_dead(directory: Path) -> None:
    """It has given its shards back, and leaves no file."""
    lock = ProcessLock()
    assert not is_dead(lock.owner_id)
    lock.close()
    assert not is_dead(lock.owner_id)
    assert not list(directory.rglob("*.lock"))


@pytest.mark.parametrize("refused", ["directory", "lock"])
def test_a_relay_without_a_lock_file_is_not_dead(
    refused: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs all the same."""
    if refused == "directory":
        monkeypatch.setattr(tempfile, "tempdir", str(directory / "missing"))
    else:
        monkeypatch.setattr(fcntl, "flock", _no_locks)
    lock = ProcessLock()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    assert not is_dead(lock.owner_id)
    lock.close()
    assert not list(directory.rglob("*.lock"))


@pytest.mark.parametrize("kind", ["open", "link", "file", "foreign"])
def test_a_lock_directory_that_others_can_write_to_is_not_used(
    kind: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its owner could declare a live relay dead, or make the relay write to another file."""
    lock_directory, elsewhere = directory / f"cxone-outbox-relay-{os.getuid()}", directory / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if kind == "link":
        lock_directory.symlink_to(elsewhere)
    elif kind == "file":
        lock_directory.touch()
    else:
        lock_directory.mkdir()
        lock_directory.chmod(0o770 if kind == "open" else 0o700)
        if kind == "foreign":
            if os.getuid():
                pytest.skip("only root can give a directory away")
            os.chown(lock_directory, 65534, -1)
    lock = ProcessLock()
    assert not is_dead(lock.owner_id)
    assert f"{lock_directory} is not a directory of this user alone: remove it" in capsys.readouterr().out
    if kind != "file":
        (lock_directory / f"{lock.owner_id}.lock").touch()
        assert not is_dead(lock.owner_id)
    lock.close()


def test_the_lock_directory_and_its_files_are_private(directory: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    lock = ProcessLock()
    os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}
    lock.close()
    assert modes == {0o700, 0o600}


def _no_locks(*_: object) -> None:
    raise OSError(37, "No locks available")
