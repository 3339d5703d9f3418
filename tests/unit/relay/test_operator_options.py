"""Options that several verbs share mean the same with each of them, and are judged before anything is asked."""

import json
import os
import pwd
import re
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from outbox.errors import DatabaseUnavailableError
from outbox.rows import CallsLeft, ShardStatus
from relay.cli import shared
from relay.cli.status import shown
from tests.command_line import command
from tests.conftest import NewDatabase

CHANGING = (
    ("retry", "--all"),
    ("discard", "--all"),
    ("replay", "--all"),
    ("inference", "retry", "--all"),
    ("prune",),
    ("erase", "--interaction", "i-1"),
    ("pause",),
    ("resume",),
    ("reshard", "2"),
    ("reconcile", "--since", "2h"),
    ("show", "1", "--reveal"),
)


def nowhere(folder: Path) -> dict[str, str]:
    """Settings of an outbox that is not there."""
    return {"DATABASE_URL": f"sqlite:///{folder}/none.db"}


@pytest.mark.parametrize("verb", CHANGING, ids=" ".join)
def test_no_reason_holds_an_address(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """What goes on record stays there, so no verb takes a person's address into it."""
    ended = command(nowhere(tmp_path), *verb, "--reason", "asked for by someone@example.com")
    assert (ended.returncode, "not by an e-mail address" in ended.stderr) == (2, True)


@pytest.mark.parametrize("verb", CHANGING, ids=" ".join)
def test_a_reason_has_an_end(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """It is refused at once, however long it is, and not quoted."""
    ended = command(nowhere(tmp_path), *verb, "--reason", "r" * 100_000)
    assert (ended.returncode, "takes up to 1000" in ended.stderr) == (2, True)
    assert len(ended.stderr) < 500


def test_an_actor_is_one_line_wherever_it_comes_from(tmp_path: Path) -> None:
    """RELAY_ACTOR is judged as --as is."""
    (tmp_path / "none.db").touch()
    given = command(nowhere(tmp_path), "pause", "--reason", "looking", RELAY_ACTOR="ann\nbob")
    assert (given.returncode, "RELAY_ACTOR" in given.stderr) == (1, True)


@pytest.mark.parametrize("verb", [("list", "--all"), ("status",), ("audit",), ("show", "1")], ids=" ".join)
def test_looking_for_rows_makes_no_database(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """In the wrong folder, the operator hears that the file is not there."""
    ended = command(nowhere(tmp_path), *verb)
    assert (ended.returncode, "none.db, which does not exist" in ended.stderr) == (1, True)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("span", ["0s", "5x", "-1m", ""])
def test_a_pause_has_a_length(tmp_path: Path, span: str) -> None:
    """Ages and spans are written alike; none of nothing."""
    ended = command(nowhere(tmp_path), "pause", "--for", span, "--reason", "looking")
    assert (ended.returncode, "no time span" in ended.stderr) == (2, True)


@pytest.mark.parametrize(("verb", "seconds"), [(("status",), 20), (("pause",), 20), (("reshard", "2"), 600)])
def test_only_a_reshard_waits_long(monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...], seconds: float) -> None:
    """Whoever looks at a silent database hears of it soon."""
    asked: list[float] = []

    def refuse(_url: str, *, answer_seconds: float) -> None:
        asked.append(answer_seconds)
        raise DatabaseUnavailableError("silent")

    monkeypatch.setattr(shared, "create_outbox_engine", refuse)
    further = () if verb == ("status",) else ("--reason", "looking")
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "SCHEMA_REGISTRY_URL": "http://localhost:2"}
    assert command(environ, *verb, *further).returncode == 1
    assert asked == [seconds]


def test_rows_are_found_whatever_their_sender_called_them(new_sqlite: NewDatabase) -> None:
    """The webhook takes blank ids and control characters; so does a filter, and the command to continue."""
    environ = {"DATABASE_URL": new_sqlite()}
    odd = "it's\\ a\x1b[31m\u202e"
    for name in (" ", odd):
        ended = command(environ, "erase", "--interaction", name, "--reason", "asked for", "--dry-run")
        assert (ended.returncode, "no row matches" in ended.stderr) == (3, True)
    again = shared.as_command("erase", "--interaction", odd)
    assert again.isprintable()
    told = subprocess.run(["bash", "-c", f'relay() {{ printf %s "$3"; }}; {again}'], capture_output=True, check=True)
    assert told.stdout.decode() == odd


def test_a_check_of_the_record_is_told_as_json(new_sqlite: NewDatabase) -> None:
    """Its verdict is one object; a hash that was asked for steers no terminal."""
    environ = {"DATABASE_URL": new_sqlite()}
    whole = command(environ, "audit", "--verify", "--json")
    assert json.loads(whole.stdout) == {"entries": 0, "last_hash": "", "broken": None, "holds": True}
    cut = command(environ, "audit", "--verify", "--json", "--head", "ab")
    assert (cut.returncode, json.loads(cut.stdout)["holds"]) == (4, False)
    assert "\x1b" not in command(environ, "audit", "--verify", "--head", "\x1b[31m").stderr


def test_a_change_without_rows_tells_of_none(new_sqlite: NewDatabase) -> None:
    """A pause is of shards."""
    environ = {"DATABASE_URL": new_sqlite()}
    command(environ, "pause", "--reason", "broker upgrade")
    assert re.search(r"ann( \(as .+\))? pause every shard: broker upgrade", command(environ, "audit").stdout)


def test_the_user_of_the_process_stands_beside_who_they_say_they_are(new_sqlite: NewDatabase) -> None:
    """By the system's word: the environment's is as good as --as."""
    environ = {"DATABASE_URL": new_sqlite()}
    command(environ, "pause", "--reason", "broker upgrade", "--as", "somebody", LOGNAME="else", USER="else")
    entry = json.loads(command(environ, "audit", "--json").stdout)
    assert (entry["actor"], entry["os_user"]) == ("somebody", pwd.getpwuid(os.getuid()).pw_name)


def test_a_key_for_pseudonyms_is_no_short_one(new_sqlite: NewDatabase) -> None:
    """Whoever can guess it can guess telephone numbers."""
    given = command({"DATABASE_URL": new_sqlite()}, "audit", AUDIT_PSEUDONYM_KEY="canary")
    assert (given.returncode, "takes 16 bytes or more" in given.stderr) == (1, True)
    assert "canary" not in given.stderr


def test_a_status_that_is_piped_is_not_folded(new_sqlite: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a shard, with whole words."""
    monkeypatch.delenv("COLUMNS", raising=False)  # tests that run side by side have one
    environ = {"DATABASE_URL": new_sqlite()}
    head, shard, total, owner = command(environ, "status").stdout.splitlines()
    assert (head.split()[:3], shard.split()[:2], total.split()[:2], owner) == (
        ["shard", "epoch", "lease"], ["0", "0"], ["total", "0"], "shard 0: sent by nobody",
    )  # fmt: skip


def test_a_status_fits_eighty_columns() -> None:
    """Eight shards with large numbers and long words: a line a shard, and each thing in the way told once."""
    status = ShardStatus(
        0, "relay-7d9f8b6c5-x2x4z:1:0123456789ab", 1234, 9000, 10**6, 23456.7, "no broker: start it " * 5,
        1_234_567, 23_456, 1_234, 12, 86_400_000, None, None, None,
    )  # fmt: skip
    shards = [status._replace(shard=number) for number in range(8)]
    console = Console(width=80, file=StringIO(), color_system=None)
    console.print(shown(shards, CallsLeft(1_000, 2)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "1234    9s 1,234,567" in line and "23,457" in line]) == 8
    assert [line for line in lines if "sent by" in line] == [f"shards 0, 1, 2, 3, 4, 5, 6, 7: sent by {status.owner}"]
    assert len([line for line in lines if line.startswith("shards 0, 1, 2, 3, 4, 5, 6, 7: no broker")]) == 1
    assert lines[-1] == "inference: 1,000 call(s) due, 2 parked (relay inference list --all)"
