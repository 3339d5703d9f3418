"""How commands fail: with one line and the documented exit code, never with a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from config.settings import BaseSettings
from outbox.db.engine import sqlite
from relay.cli import COMMANDS
from relay.cli.session import open_outbox, open_outbox_for_shards
from testkit import ROOT
from testkit.command_line import CommandResult, command, expect
from testkit.databases import NewDatabase
from testkit.ports import free_port
from testkit.services import ExternalService, Postgres
from testkit.waiting import wait_until

CONFIRMED = ("--reason", "as agreed", "--yes")
READING: dict[str, tuple[str, ...]] = {
    "status": (),
    "list": ("--all",),
    "show": ("1",),
    "audit": (),
    "inference": ("list", "--all"),
    "verify": (),
}
CHANGING: dict[str, tuple[str, ...]] = {
    "retry": ("--all", *CONFIRMED),
    "discard": ("--all", *CONFIRMED),
    "replay": ("--all", *CONFIRMED),
    "prune": ("--all", *CONFIRMED),
    "erase": ("--interaction", "i-1", *CONFIRMED),
    "pause": ("--reason", "as agreed"),
    "resume": ("--reason", "as agreed"),
    "reshard": ("2", *CONFIRMED),
    "reconcile": ("--since", "1h", *CONFIRMED),
}
OTHERS = {"run", "check", "demo", "migrate", "console-password"}
"""They start, diagnose or create what the other commands need."""


def run(name: str, url: str, **environ: str) -> CommandResult:
    """Run a command on a database, with a broker that does not respond."""
    nowhere = f"127.0.0.1:{free_port()}"
    services = {"KAFKA_BOOTSTRAP_SERVERS": nowhere, "SCHEMA_REGISTRY_URL": f"http://{nowhere}"}
    arguments = {**READING, **CHANGING}[name]
    return command({**services, "DATABASE_URL": url, **environ}, name, *arguments)


def expect_one_line(done: CommandResult, message: str = "") -> None:
    """Assert that a command failed with one readable line that contains a message, and printed nothing else."""
    expect(done, 1, stderr=message)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert 'File "' not in done.stderr


def test_every_command_is_tested_here() -> None:
    """A new command must be added to one of the lists."""
    assert {*READING, *CHANGING} | OTHERS == set(COMMANDS)


@pytest.mark.parametrize("name", [*READING, *CHANGING])
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("missing", "does not exist"),
        ("empty", "relay migrate"),
        ("no database", "database"),
        ("a folder", "database"),
        ("a wrong URL", "DATABASE_URL="),
        ("nobody listens", "refused"),
    ],
)
def test_an_unusable_database_is_one_line(name: str, state: str, message: str, tmp_path: Path) -> None:
    """Every command exits with 1 and names the reason."""
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("these are lines of text\n" * 100)
    (tmp_path / "folder.db").mkdir()
    url = {
        "missing": f"sqlite:///{tmp_path}/none.db",
        "empty": f"sqlite:///{tmp_path}/empty.db",
        "no database": f"sqlite:///{tmp_path}/text.db",
        "a folder": f"sqlite:///{tmp_path}/folder.db",
        "a wrong URL": "mysql://localhost/outbox",
        "nobody listens": f"postgres://outbox:canary@127.0.0.1:{free_port()}/outbox",
    }[state]
    done = run(name, url)
    expect_one_line(done, message)
    assert "canary" not in done.stderr


@pytest.mark.parametrize("name", [*READING, *CHANGING])
@pytest.mark.parametrize("target", ["outbox@{host}/none", "nobody@{host}/postgres", "outbox@{host}/postgres"])
def test_a_missing_postgresql_outbox_is_one_line(name: str, target: str, postgres: Postgres | ExternalService) -> None:
    """The database or the role is missing, or the database has no outbox."""
    host = postgres.url.rpartition("@")[2].partition("/")[0]
    expect_one_line(run(name, f"postgresql://{target.format(host=host)}"))


def test_a_locked_database_is_one_line(new_sqlite: NewDatabase) -> None:
    """If another transaction keeps the write lock, the command gives up after a few seconds."""
    url = new_sqlite()
    holder = sqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    done = run("pause", url)
    holder.close()
    expect_one_line(done, "locked")


def test_only_shard_commands_wait_long_for_the_database(
    postgres: Postgres | ExternalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reshard may take minutes; any other command reports a silent database within 20 seconds."""
    monkeypatch.setenv("DATABASE_URL", postgres.url)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")
    waits = []
    for session in (open_outbox(BaseSettings), open_outbox_for_shards()):
        with session as (engine, _), engine.connect() as connection:
            waits.append(getattr(connection.connection.driver_connection, "answer_seconds", None))
    assert waits == [20.0, 600.0]


@pytest.mark.parametrize("name", ["reshard", "reconcile"])
def test_a_stopped_broker_is_named(name: str, new_sqlite: NewDatabase) -> None:
    """Commands that need Kafka exit with 1; the last line names it."""
    done = run(name, new_sqlite())
    expect(done, 1)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Kafka" in done.stderr.splitlines()[-1]


def test_an_unexpected_error_is_one_line(new_sqlite: NewDatabase) -> None:
    """It names the type, not the text, which may contain data; LOG_LEVEL=DEBUG adds where it happened."""
    url = new_sqlite()
    database = sqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    database.execute("INSERT INTO outbox_audit (at, actor, verb, filter, reason, row_ids, hash, os_user)"
                     " VALUES (1, 'ann', 'retry', '{', 'canary', '[1]', 'x', 'root')")  # fmt: skip
    database.execute("UPDATE outbox_audit SET row_ids = '[1'")
    database.close()
    done = run("audit", url)
    expect_one_line(done, "unexpected JSONDecodeError")
    traced = run("audit", url, LOG_LEVEL="DEBUG")
    assert f"{ROOT}/relay/cli/audit.py:" in traced.stderr
    assert "canary" not in done.stderr + traced.stderr


# Output that cannot be written ---------------------------------------------------------------------


def in_a_shell(line: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash with ``relay`` as a command."""
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_ACTOR": "ann", "KAFKA_BOOTSTRAP_SERVERS": "",
               "SCHEMA_REGISTRY_URL": ""}  # fmt: skip
    script = f'relay() {{ "{sys.executable}" -m relay "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(["bash", "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


PRINTING = ["status", "status --json", "status --watch 0.2", "audit --json", "pause --reason x", "check", "--help"]


@pytest.mark.parametrize("line", PRINTING)
def test_a_full_disk_is_one_line(line: str, new_sqlite: NewDatabase) -> None:
    """Exit code 1; only the output is lost."""
    url = new_sqlite()
    run("pause", url)
    done = in_a_shell(f"relay {line} > /dev/full", url)
    expect(done, 1)
    assert done.stderr == "cannot write the output: No space left on device\n"


@pytest.mark.parametrize("line", PRINTING)
def test_a_closed_pipe_is_silent(line: str, new_sqlite: NewDatabase) -> None:
    """Exit code 1, or 0 if everything was written before the reader stopped."""
    url = new_sqlite()
    run("pause", url)
    done = in_a_shell(f"relay {line} | head -c 1 > /dev/null", url)
    assert done.returncode in (0, 1), done
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_the_exit_code_survives_an_unwritable_stderr(new_sqlite: NewDatabase) -> None:
    """Only the message is lost."""
    assert in_a_shell("relay list 2> /dev/full", new_sqlite()).returncode == 2
    assert in_a_shell("relay list --all 2> /dev/full", "sqlite:////nowhere/none.db").returncode == 1


def test_a_command_works_without_stdout_and_stderr(new_sqlite: NewDatabase) -> None:
    """Some supervisors and cron jobs start commands with both closed."""
    url = new_sqlite()
    expect(in_a_shell("relay pause --reason upgrade >&- 2>&-", url), 0)
    expect(in_a_shell("relay status 2>&-", url), 0, stdout="paused by ann")


def test_ctrl_c_is_one_line(new_sqlite: NewDatabase) -> None:
    """Exit code 1, and nothing is changed; here the command waits for a lock."""
    url = new_sqlite()
    holder = sqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_ACTOR": "ann"}
    waiting = subprocess.Popen(
        [sys.executable, "-m", "relay", "pause", "--reason", "x"],
        cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    database = Path(url.removeprefix("sqlite:///")).resolve()
    wait_until(
        lambda: str(database) in {file.path for file in psutil.Process(waiting.pid).open_files()}, "the command waits"
    )
    waiting.send_signal(signal.SIGINT)
    stdout, stderr = waiting.communicate(timeout=60)
    holder.close()
    assert (waiting.returncode, stdout, stderr.strip()) == (1, "", "stopped")
