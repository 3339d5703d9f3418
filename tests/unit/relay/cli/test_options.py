"""Options that several verbs share mean the same with each of them, and are judged before anything is asked."""

import json
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import click
import pytest
from rich.console import Console

from outbox.errors import DatabaseUnavailableError
from outbox.models import CallCounts, ShardStatus
from relay.cli import main, options, output
from relay.cli.status import shown
from testkit.command_line import command
from testkit.databases import NewDatabase

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


DRY = [verb for verb in CHANGING if verb[0] not in ("pause", "resume", "show")]


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


@pytest.mark.parametrize("verb", DRY, ids=" ".join)
def test_a_dry_run_needs_neither_reason_nor_actor(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """It goes on no record; whatever order its options are given in, and whoever runs it. A change needs both."""
    services = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "SCHEMA_REGISTRY_URL": "http://localhost:2"}
    names = 2 if verb[0] == "inference" else 1
    for arguments in ((*verb, "--dry-run"), (*verb[:names], "--dry-run", *verb[names:])):
        ended = command({**nowhere(tmp_path), **services}, *arguments, RELAY_ACTOR="")
        assert (ended.returncode, "does not exist" in ended.stderr) == (1, True), ended.stderr
    for missing in ((), ("--dry-run", "--reason", "")):
        refused = command(nowhere(tmp_path), *verb, *missing)
        assert (refused.returncode, "--reason" in refused.stderr) == (2, True), refused.stderr


@pytest.mark.parametrize("verb", [("list",), ("retry", "--dry-run"), ("prune", "--dry-run"), ("inference", "list")])
@pytest.mark.parametrize(("earlier", "later"), [("2h", "1h"), ("yesterday", "today"), ("2026-01-31", "1785000000000")])
def test_times_the_wrong_way_round_are_named(tmp_path: Path, verb: tuple[str, ...], earlier: str, later: str) -> None:
    """With what they mean and what to do, for nothing could match; so with the same time twice."""
    for until in (earlier, later):
        ended = command(nowhere(tmp_path), *verb, "--since", later, "--until", until)
        assert (ended.returncode, f"--since {later} (20" in ended.stderr) == (2, True), ended.stderr
        assert "--since takes the earlier time" in ended.stderr
    assert command(nowhere(tmp_path), *verb, "--since", earlier, "--until", later).returncode == 1


@pytest.mark.parametrize("verb", [("show",), ("list", "--id"), ("retry", "--dry-run", "--id"), ("audit", "--id")])
def test_an_id_may_be_written_with_a_number_sign(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """As people write it to each other; what is none is refused in plain words."""
    assert "does not exist" in command(nowhere(tmp_path), *verb, "#1").stderr
    for wrong in ("0", "-1", "x", "#", "##1", "1.5", str(2**63)):
        refused = command(nowhere(tmp_path), *verb, f" {wrong}")
        assert (refused.returncode, "is not an outbox id: expected a number such as 4711" in refused.stderr) == (
            2, True,
        ), refused.stderr  # fmt: skip


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

    monkeypatch.setattr(options, "create_outbox_engine", refuse)
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
    again = output.as_command("erase", "--interaction", odd)
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


@pytest.mark.parametrize(("typed", "meant"), [("retyr", "retry"), ("lst", "list"), ("reconsile", "reconcile")])
def test_a_verb_that_is_mistyped_is_named(tmp_path: Path, typed: str, meant: str) -> None:
    """The nearest one."""
    ended = command(nowhere(tmp_path), typed)
    assert (ended.returncode, f"Did you mean '{meant}'" in ended.stderr) == (2, True), ended.stderr


def test_what_was_typed_steers_no_terminal(tmp_path: Path) -> None:
    """Control characters and marks that turn the direction are escaped in errors, too."""
    odd = "\x1b[31m\u202e\u200f\x9b"
    for arguments in ((odd,), ("list", odd), ("list", "--state", odd), ("show", odd), ("list", f"--{odd}")):
        ended = command(nowhere(tmp_path), *arguments)
        assert ended.returncode == 2
        assert not {"\x1b", "\u202e", "\u200f", "\x9b"} & set(ended.stderr), ended.stderr


def test_numbers_of_64_bits_are_text_in_json() -> None:
    """Readers that use doubles would lose their digits; a field is text always or never, as far as it is exact."""
    said = output.to_json({"id": 5, "nonce": 7, "rows": [2**53 - 1, {"timestamp_ms": 1, "epoch": -(2**60)}], "x": True})
    assert json.loads(said) == {
        "id": 5, "nonce": "7", "rows": [2**53 - 1, {"timestamp_ms": "1", "epoch": str(-(2**60))}], "x": True,
    }  # fmt: skip


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        each = group.get_command(context, name)
        assert each is not None
        yield (*path, name), each
        if isinstance(each, click.Group):
            yield from commands(each, (*path, name))


ALL = dict(commands(main))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
@pytest.mark.parametrize("columns", ["40", "80"])
def test_the_help_is_whole(path: tuple[str, ...], columns: str) -> None:
    """One sentence of at most 60 characters sums a command up, every option has its help, and nothing is cut off."""
    summary, blank, *_ = (ALL[path].help or "").split("\n")
    assert (len(summary) <= 60, summary.endswith("."), blank) == (True, True, ""), summary
    for option in ALL[path].params:
        assert isinstance(option, click.Argument) or option.help, option.name
    shown = command({}, *path, "--help", COLUMNS=columns, TERMINAL_WIDTH=columns).stdout
    assert not re.search(r"\.\.\.\n|\.\.\.$|…\n|RANGE|<=x|x>=|922337", shown.replace("[ARGS]...", "")), shown


def test_the_help_lists_each_command_with_its_summary() -> None:
    """In one line each, on eighty columns."""
    shown = command({}, "--help", COLUMNS="80").stdout.splitlines()
    for (verb, *below), each in ALL.items():
        if not below:
            summary = (each.help or "").partition("\n")[0]
            assert [line for line in shown if line.split() == [verb, *summary.split()]], verb


def test_a_status_that_is_piped_is_not_folded(new_sqlite: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a shard, with whole words."""
    monkeypatch.delenv("COLUMNS", raising=False)  # tests that run side by side have one
    environ = {"DATABASE_URL": new_sqlite()}
    head, shard, total, owner = command(environ, "status").stdout.splitlines()
    assert (head.split()[:3], shard.split()[:2], total.split()[:2], owner) == (
        ["shard", "epoch", "lease"], ["0", "0"], ["total", "0"], "shard 0: sent by nobody",
    )  # fmt: skip


def shards_as_shown(width: int) -> tuple[ShardStatus, list[str]]:
    """Eight shards with large numbers and long words, and the lines that show them."""
    status = ShardStatus(
        0, "relay-7d9f8b6c5-x2x4z:1:0123456789ab", 1234, 9000, 10**6, 23456.7, "no broker: start it " * 5,
        1_234_567, 23_456, 1_234, 12, 86_400_000, None, None, None,
    )  # fmt: skip
    shards = [status._replace(shard=number) for number in range(8)]
    console = Console(width=width, file=StringIO(), color_system=None)
    console.print(shown(shards, CallCounts(1_000, 2), width))
    return status, console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_status_fits_eighty_columns() -> None:
    """A line a shard, and each thing in the way told once."""
    status, lines = shards_as_shown(80)
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "1234    9s 1,234,567" in line and "23,457" in line]) == 8
    assert [line for line in lines if "sent by" in line] == [f"shards 0, 1, 2, 3, 4, 5, 6, 7: sent by {status.owner}"]
    assert len([line for line in lines if line.startswith("shards 0, 1, 2, 3, 4, 5, 6, 7: no broker")]) == 1
    assert lines[-1] == "inference: 1,000 call(s) due, 2 parked (relay inference list --all)"


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_status_on_few_columns_is_a_line_a_number(width: int) -> None:
    """Each with its whole name; nothing is cut off."""
    _, lines = shards_as_shown(width)
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if "…" in line]
    for said in ("shard 7", "  pending: 1,234,567", "  discarded: 12", "  rows/s: 23,457", "total"):
        assert said in lines
