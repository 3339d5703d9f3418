"""How commands end that cannot do their work: one line, the documented exit code, never a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from outbox.db.engine import sqlite
from relay.cli import VERBS
from testkit import ROOT
from testkit.command_line import Ended, command
from testkit.databases import NewDatabase
from testkit.services import ExternalService, Postgres
from testkit.services.process import free_port
from testkit.waiting import wait_until

WHY = ("--reason", "as agreed", "--yes")
LOOKING: dict[str, tuple[str, ...]] = {
    "status": (),
    "list": ("--all",),
    "show": ("1",),
    "audit": (),
    "inference": ("list", "--all"),
}
CHANGING: dict[str, tuple[str, ...]] = {
    "retry": ("--all", *WHY),
    "discard": ("--all", *WHY),
    "replay": ("--all", *WHY),
    "prune": ("--all", *WHY),
    "erase": ("--interaction", "i-1", *WHY),
    "pause": ("--reason", "as agreed"),
    "resume": ("--reason", "as agreed"),
    "reshard": ("2", *WHY),
    "reconcile": ("--since", "1h", *WHY),
}
NEITHER = {"run", "check", "demo", "migrate"}
"""They start, diagnose or make what the others need."""


def ended(verb: str, url: str, **environ: str) -> Ended:
    """How a verb ends on a database, with a broker that nobody has."""
    nowhere = f"127.0.0.1:{free_port()}"
    services = {"KAFKA_BOOTSTRAP_SERVERS": nowhere, "SCHEMA_REGISTRY_URL": f"http://{nowhere}"}
    arguments = {**LOOKING, **CHANGING}[verb]
    return command({**services, "DATABASE_URL": url, **environ}, verb, *arguments)


def is_one_line(text: str) -> bool:
    """Whether it is a line that a person can read, and no trace."""
    return len(text.splitlines()) == 1 and "Traceback" not in text and 'File "' not in text


def test_every_verb_is_tried_here() -> None:
    """A new verb has to be added to one of the lists."""
    assert {*LOOKING, *CHANGING} | NEITHER == set(VERBS)


@pytest.mark.parametrize("verb", [*LOOKING, *CHANGING])
@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("missing", "does not exist"),
        ("empty", "relay migrate"),
        ("no database", "database"),
        ("a folder", "database"),
        ("a wrong URL", "DATABASE_URL="),
        ("nobody listens", "refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(verb: str, state: str, said: str, tmp_path: Path) -> None:
    """Exit code 1 and the reason, with every verb."""
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
    done = ended(verb, url)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert is_one_line(done.stderr), done.stderr
    assert said in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize("verb", [*LOOKING, *CHANGING])
@pytest.mark.parametrize("place", ["outbox@{host}/none", "nobody@{host}/postgres", "outbox@{host}/postgres"])
def test_postgresql_without_the_outbox_is_one_line(verb: str, place: str, postgres: Postgres | ExternalService) -> None:
    """Its database or role is missing, or it holds no outbox: exit code 1 and the reason."""
    host = postgres.url.rpartition("@")[2].partition("/")[0]
    done = ended(verb, f"postgresql://{place.format(host=host)}")
    assert (done.returncode, done.stdout, is_one_line(done.stderr)) == (1, "", True), done


def test_a_locked_database_is_one_line(new_sqlite: NewDatabase) -> None:
    """Somebody else writes and does not end: after some seconds the change is given up, with nothing done."""
    url = new_sqlite()
    holder = sqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    done = ended("pause", url)
    holder.close()
    assert (done.returncode, done.stdout, is_one_line(done.stderr)) == (1, "", True), done
    assert "locked" in done.stderr


@pytest.mark.parametrize("verb", ["reshard", "reconcile"])
def test_a_broker_that_is_down_is_one_line(verb: str, new_sqlite: NewDatabase) -> None:
    """Exit code 1, and who does not answer."""
    done = ended(verb, new_sqlite())
    assert (done.returncode, done.stdout) == (1, ""), done
    assert "Traceback" not in done.stderr
    assert "Kafka" in done.stderr.splitlines()[-1]


def test_what_nobody_thought_of_is_one_line_too(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """The kind of the error, without its text, which could hold data; where it was only with LOG_LEVEL=DEBUG."""
    url = new_sqlite()
    database = sqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    database.execute("INSERT INTO outbox_audit (at, actor, verb, filter, reason, row_ids, hash)"
                     " VALUES (1, 'ann', 'retry', '{', 'canary', '[1', 'x')")  # fmt: skip
    database.close()
    done = ended("audit", url)
    assert (done.returncode, is_one_line(done.stderr)) == (1, True), done
    assert "unexpected JSONDecodeError" in done.stderr
    traced = ended("audit", url, LOG_LEVEL="DEBUG")
    assert f"{ROOT}/relay/cli/audit.py:" in traced.stderr
    assert "canary" not in done.stderr + traced.stderr


# Output that cannot be written ---------------------------------------------------------------------


def in_a_shell(line: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``relay`` is the command."""
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_ACTOR": "ann", "KAFKA_BOOTSTRAP_SERVERS": "",
               "SCHEMA_REGISTRY_URL": ""}  # fmt: skip
    start = f'relay() {{ "{sys.executable}" -m relay "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(["bash", "-c", start], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


PRINTING = ["status", "status --json", "status --watch 0.2", "audit --json", "pause --reason x", "check", "--help"]


@pytest.mark.parametrize("line", PRINTING)
def test_a_full_disk_is_one_line(line: str, new_sqlite: NewDatabase) -> None:
    """Exit code 1; only what was printed is lost."""
    url = new_sqlite()
    ended("pause", url)
    done = in_a_shell(f"relay {line} > /dev/full", url)
    assert done.returncode == 1, done
    assert done.stderr == "the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("line", PRINTING)
def test_a_closed_pipe_is_silent(line: str, new_sqlite: NewDatabase) -> None:
    """Who reads no further wants no more: exit code 1, or 0 where all was written before."""
    url = new_sqlite()
    ended("pause", url)
    done = in_a_shell(f"relay {line} | head -c 1 > /dev/null", url)
    assert done.returncode in (0, 1), done
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_errors_that_cannot_be_written_keep_their_exit_code(new_sqlite: NewDatabase) -> None:
    """Where stderr is full, the code is all there is."""
    assert in_a_shell("relay list 2> /dev/full", new_sqlite()).returncode == 2
    assert in_a_shell("relay list --all 2> /dev/full", "sqlite:////nowhere/none.db").returncode == 1


def test_without_stdout_or_stderr_the_work_is_done(new_sqlite: NewDatabase) -> None:
    """As some supervisors and cron jobs start commands."""
    url = new_sqlite()
    assert in_a_shell("relay pause --reason upgrade >&- 2>&-", url).returncode == 0
    assert "paused by ann" in in_a_shell("relay status 2>&-", url).stdout


def test_ctrl_c_is_one_line(new_sqlite: NewDatabase) -> None:
    """With exit code 1, and nothing done; here while a command waits for a lock."""
    url = new_sqlite()
    holder = sqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_ACTOR": "ann"}
    waiting = subprocess.Popen(
        [sys.executable, "-m", "relay", "pause", "--reason", "x"],
        cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    database = Path(url.removeprefix("sqlite:///")).resolve()
    wait_until(lambda: str(database) in {file.path for file in psutil.Process(waiting.pid).open_files()}, "it waits")
    waiting.send_signal(signal.SIGINT)
    stdout, stderr = waiting.communicate(timeout=60)
    holder.close()
    assert (waiting.returncode, stdout, stderr.strip()) == (1, "", "stopped")
