"""Options that several commands share mean the same with each of them, and are checked before anything is read."""

import json
import os
import pwd
import re
from pathlib import Path

import pytest

from outbox.operators.planned_replay import plan_name
from relay.cli.options import ChangeOptions, RowSelection
from relay.cli.param_types import Timestamp
from testkit.command_line import command, expect
from testkit.databases import NewDatabase

AUDITED = (
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
PLANNED = [arguments for arguments in AUDITED if arguments[0] not in ("pause", "resume", "show")]
NO_ROWS = RowSelection((), None, None, None, None, None, None, all_rows=False)


def missing_outbox(folder: Path) -> dict[str, str]:
    """Return settings that name a database file that does not exist."""
    return {"DATABASE_URL": f"sqlite:///{folder}/none.db"}


@pytest.mark.parametrize("arguments", AUDITED, ids=" ".join)
def test_a_reason_contains_no_email_address(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The audit log is kept, so personal data must not enter it."""
    ended = command(missing_outbox(tmp_path), *arguments, "--reason", "asked for by someone@example.com")
    expect(ended, 2, stderr="not by an e-mail address")


@pytest.mark.parametrize("arguments", AUDITED, ids=" ".join)
def test_a_long_reason_is_refused_and_not_quoted(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The error names the limit."""
    ended = command(missing_outbox(tmp_path), *arguments, "--reason", "r" * 100_000)
    expect(ended, 2, stderr="the maximum is 1000")
    assert len(ended.stderr) < 500


@pytest.mark.parametrize("arguments", PLANNED, ids=" ".join)
def test_a_dry_run_needs_neither_reason_nor_actor(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A dry run is not audited, whatever the order of the options. A change requires a reason."""
    services = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "SCHEMA_REGISTRY_URL": "http://localhost:2"}
    names = 2 if arguments[0] == "inference" else 1
    for dry_run in ((*arguments, "--dry-run"), (*arguments[:names], "--dry-run", *arguments[names:])):
        ended = command({**missing_outbox(tmp_path), **services}, *dry_run, RELAY_ACTOR="")
        expect(ended, 1, stderr="does not exist")
    for missing in ((), ("--dry-run", "--reason", "")):
        expect(command(missing_outbox(tmp_path), *arguments, *missing), 2, stderr="--reason")


@pytest.mark.parametrize(
    "arguments", [("list",), ("retry", "--dry-run"), ("prune", "--dry-run"), ("inference", "list")], ids=" ".join
)
@pytest.mark.parametrize(("earlier", "later"), [("2h", "1h"), ("yesterday", "today"), ("2026-01-31", "1785000000000")])
def test_since_must_be_before_until(tmp_path: Path, arguments: tuple[str, ...], earlier: str, later: str) -> None:
    """Swapped or equal times select nothing, so the error names both."""
    for until in (earlier, later):
        ended = command(missing_outbox(tmp_path), *arguments, "--since", later, "--until", until)
        expect(ended, 2, stderr=f"--since {later} (20")
        expect(ended, 2, stderr="--since takes the earlier time")
    right = command(missing_outbox(tmp_path), *arguments, "--since", earlier, "--until", later)
    expect(right, 1, stderr="does not exist")


@pytest.mark.parametrize(
    "arguments", [("show",), ("list", "--id"), ("retry", "--dry-run", "--id"), ("audit", "--id")], ids=" ".join
)
def test_an_id_may_begin_with_a_number_sign(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """#4711 is how people write an id; anything else is refused with an example."""
    expect(command(missing_outbox(tmp_path), *arguments, "#1"), 1, stderr="does not exist")
    for wrong in ("0", "-1", "x", "#", "##1", "1.5", str(2**63)):
        refused = command(missing_outbox(tmp_path), *arguments, f" {wrong}")
        expect(refused, 2, stderr="is not an outbox id: expected a number such as 4711")


def test_an_actor_is_one_line_wherever_it_comes_from(tmp_path: Path) -> None:
    """RELAY_ACTOR is checked like --as."""
    (tmp_path / "none.db").touch()
    ended = command(missing_outbox(tmp_path), "pause", "--reason", "looking", RELAY_ACTOR="ann\nbob")
    expect(ended, 1, stderr="RELAY_ACTOR")


@pytest.mark.parametrize("arguments", [("list", "--all"), ("status",), ("audit",), ("show", "1")], ids=" ".join)
def test_a_read_creates_no_database(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """In the wrong directory, the operator learns that the file does not exist."""
    expect(command(missing_outbox(tmp_path), *arguments), 1, stderr="none.db, which does not exist")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("duration", ["0s", "5x", "-1m", ""])
def test_a_pause_has_a_positive_duration(tmp_path: Path, duration: str) -> None:
    """The error shows the format."""
    ended = command(missing_outbox(tmp_path), "pause", "--for", duration, "--reason", "looking")
    expect(ended, 2, stderr="is not a duration: expected one such as 90s")


@pytest.mark.parametrize(("duration", "code"), [("52w", 1), ("52w1s", 2), ("999999w", 2)])
def test_a_pause_ends_within_a_year(tmp_path: Path, duration: str, code: int) -> None:
    """A later end could be a time that ``relay status`` cannot show."""
    ended = command(missing_outbox(tmp_path), "pause", "--for", duration, "--reason", "looking", RELAY_ACTOR="ann")
    expect(ended, code, stderr="does not exist" if code == 1 else "at most 52w")


def test_any_interaction_id_of_a_sender_can_be_selected(new_sqlite: NewDatabase) -> None:
    """The webhook accepts blank ids and control characters, so the filter does, too."""
    environ = {"DATABASE_URL": new_sqlite()}
    for name in (" ", "it's\\ a\x1b[31m\u202e"):
        ended = command(environ, "erase", "--interaction", name, "--reason", "asked for", "--dry-run")
        expect(ended, 3, stderr="no row matches")


def test_a_verified_audit_log_is_reported_as_json(new_sqlite: NewDatabase) -> None:
    """The report is one object; a wrong hash gives exit code 4 and cannot control the terminal."""
    environ = {"DATABASE_URL": new_sqlite()}
    whole = command(environ, "audit", "--verify", "--json")
    assert json.loads(whole.stdout) == {"entries": 0, "last_hash": "", "broken": None, "holds": True}
    missing = command(environ, "audit", "--verify", "--json", "--head", "ab")
    expect(missing, 4)
    assert json.loads(missing.stdout)["holds"] is False
    assert "\x1b" not in command(environ, "audit", "--verify", "--head", "\x1b[31m").stderr


def test_an_entry_without_rows_shows_none(new_sqlite: NewDatabase) -> None:
    """A pause changes shards, not rows."""
    environ = {"DATABASE_URL": new_sqlite()}
    command(environ, "pause", "--reason", "broker upgrade")
    shown = command(environ, "audit").stdout
    assert re.search(r"ann( \(as .+\))? pause every shard: broker upgrade", shown), shown


def test_an_entry_records_the_user_of_the_process(new_sqlite: NewDatabase) -> None:
    """It comes from the system; the environment could be forged as easily as --as."""
    environ = {"DATABASE_URL": new_sqlite()}
    command(environ, "pause", "--reason", "broker upgrade", "--as", "somebody", LOGNAME="else", USER="else")
    entry = json.loads(command(environ, "audit", "--json").stdout)
    assert entry["actor"] == "somebody"
    assert entry["os_user"] == pwd.getpwuid(os.getuid()).pw_name


def test_a_short_pseudonym_key_is_refused(new_sqlite: NewDatabase) -> None:
    """A key that can be guessed reveals telephone numbers; the error does not quote it."""
    ended = command({"DATABASE_URL": new_sqlite()}, "audit", AUDIT_PSEUDONYM_KEY="canary")
    expect(ended, 1, stderr="expected 16 bytes or more")
    assert "canary" not in ended.stderr


@pytest.mark.parametrize(("typed", "meant"), [("retyr", "retry"), ("lst", "list"), ("reconsile", "reconcile")])
def test_a_mistyped_command_gets_a_suggestion(tmp_path: Path, typed: str, meant: str) -> None:
    """The error names the most similar command."""
    expect(command(missing_outbox(tmp_path), typed), 2, stderr=f"Did you mean '{meant}'")


def test_a_replay_is_named_after_what_was_typed() -> None:
    """The same filters, topic and reason give the same name later; how the change is done does not matter."""
    earlier = RowSelection((), None, None, "voice", None, Timestamp(1_000, "2h"), None, all_rows=False)
    later = RowSelection((), None, None, "voice", None, Timestamp(9_000, "2h"), None, all_rows=False)
    name = plan_name(None, earlier.as_typed(), "lost")
    assert re.fullmatch(r"[0-9a-f]{12}", name)
    assert plan_name(None, later.as_typed(), "lost") == name
    others = [
        plan_name("topic", earlier.as_typed(), "lost"),
        plan_name(None, NO_ROWS.as_typed(), "lost"),
        plan_name(None, earlier.as_typed(), "late"),
    ]
    assert len({name, *others}) == 4


def test_a_command_to_continue_repeats_who_why_and_how_fast() -> None:
    """What was not given is left out."""
    given = ChangeOptions("lost", "bob", yes=True, rate=10)
    assert given.as_arguments() == ["--rate", "10", "--as", "bob", "--reason", "lost"]
    assert ChangeOptions("lost", None).as_arguments() == ["--reason", "lost"]
