"""The operators' command line, beside a running relay."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import click
import pytest
from confluent_kafka.admin import NewTopic
from sqlalchemy import Engine, text

from outbox.models import AuditContext, RowFilter
from outbox.operators.change import Operations
from outbox.store import Store
from relay.cli import VERBS, main
from testkit import ROOT
from testkit.command_line import command, expect
from testkit.command_line import command as on_command_line
from testkit.deployment import Deployment
from testkit.outbox import mark_sent, park, planned, record, states
from testkit.rows import culprit, new_row, new_rows
from testkit.topic import alter_topic, create_topics
from testkit.waiting import wait_until


def test_an_operator_finds_mends_and_retries(deployment: Deployment) -> None:
    """One refused record holds its interaction; the operator finds it, raises the limit, retries: order is kept."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record([new_row("i-1"), new_row("i-1", **culprit()), new_row("i-1"), new_row("i-2")])
    deployment.relay()
    wait_until(lambda: deployment.query("SELECT id FROM outbox WHERE state = 'parked'") == [(ids[1],)], "it is parked")
    assert [shard.waiting for shard in deployment.store.status()] == [1]
    groups = command(deployment.environ, "list", "--group-by", "error", "--json")
    assert json.loads(groups.stdout)["rows"] == 1
    listed = command(deployment.environ, "list", "--state", "parked", "--json")
    assert json.loads(listed.stdout)["id"] == ids[1]
    looked = command(deployment.environ, "retry", "--error", "MSG_SIZE_TOO_LARGE", "--dry-run")
    expect(looked, 0, stderr="wait behind it: 1 now")
    alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", "1048576")
    asked = command(deployment.environ, "retry", "--id", str(ids[1]), "--reason", "limit raised")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    done = command(deployment.environ, "retry", "--id", str(ids[1]), "--reason", "limit raised", "--yes")
    assert (done.returncode, done.stdout) == (0, "retry: 1 row(s) done\n")
    assert "rows/s" not in done.stderr  # progress is for terminals
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    (entry,) = map(json.loads, command(deployment.environ, "audit", "--json").stdout.splitlines())
    assert (entry["actor"], entry["verb"], entry["reason"], entry["row_ids"]) == (
        "ann", "retry", "limit raised", [ids[1]],
    )  # fmt: skip
    assert command(deployment.environ, "audit", "--verify").returncode == 0


def test_after_a_discard_the_interaction_goes_on(deployment: Deployment) -> None:
    """The row that cannot be sent is kept out of the topic; those behind it arrive."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record([new_row("i-1", **culprit()), new_row("i-1"), new_row("i-1")])
    deployment.relay()
    wait_until(lambda: deployment.query("SELECT id FROM outbox WHERE state = 'parked'") == [(ids[0],)], "it is parked")
    done = command(deployment.environ, "discard", "--interaction", "i-1", "--reason", "a test call", "--yes")
    assert done.returncode == 0
    deployment.wait_drained()
    assert [record.outbox_id for record in deployment.seen()] == ids[1:]
    assert deployment.query("SELECT state FROM outbox ORDER BY id") == [("discarded",), ("sent",), ("sent",)]


def test_sent_rows_are_sent_again_on_purpose(deployment: Deployment) -> None:
    """A replay arrives after the originals, in their order, marked; the same plan given again adds nothing."""
    ids = deployment.record(new_rows(20, interactions=4))
    deployment.relay()
    deployment.wait_drained()
    arguments = ("replay", "--interaction", "i-1", "--plan", "p1", "--reason", "consumer lost them", "--yes")
    assert command(deployment.environ, *arguments).returncode == 0
    deployment.wait_drained()
    again = [record for record in deployment.seen() if "replay-of" in record.headers]
    assert [int(record.headers["replay-of"]) for record in again] == ids[1::4]
    assert {record.key for record in again} == {"i-1"}
    assert len(deployment.seen()) == 25
    given_again = command(deployment.environ, *arguments)
    said = "all 5 row(s) that match were replayed already: replay p1, audit entry 1, 20"
    assert (given_again.returncode, said in given_again.stderr) == (3, True), given_again.stderr
    assert len(command(deployment.environ, "list", "--interaction", "i-1").stdout.splitlines()) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["list"], 2, "name the rows by a filter"),
        (["list", "--all", "--channel", "voice"], 2, "not both"),
        (["list", "--since", "soon"], 2, "'soon' is not a time"),
        (["list", "--all"], 3, ""),
        (["list", "--group-by", "error"], 3, ""),
        (["audit"], 3, ""),
        (["retry", "--all", "--yes"], 2, "--reason"),
        (["retry", "--yes", "--reason", "x"], 2, "name the rows by a filter"),
        (["retry", "--state", "sent", "--yes", "--reason", "x"], 2, "takes parked rows only"),
        (["retry", "--all", "--yes", "--reason", " "], 2, "is blank"),
        (["replay", "--all", "--yes", "--reason", "x", "--plan", "a:1"], 2, "takes 1 to 64 letters"),
        (["replay", "--all", "--state", "parked", "--yes", "--reason", "x"], 2, "not both"),
        (["retry", "--all", "--yes", "--reason", "for ann@example.com"], 2, "not by an e-mail address"),
        (["replay", "--all", "--yes", "--reason", "x", "--topic", "t"], 2, "is not in KAFKA_REPLAY_TOPICS"),
        (["replay", "--all", "--yes", "--reason", "x", "--topic", "t", "--inference-only"], 2, "give no --topic"),
        (["list", "--group-by", "error", "--state", "sent"], 2, "shows parked rows"),
        (["inference", "retry", "--all", "--yes", "--reason", "x"], 3, "no row matches"),
        (["inference", "list", "--state", "sent"], 2, "only parked calls"),
        (["erase", "--yes", "--reason", "x"], 2, "by --email or by --interaction"),
        (["erase", "--email", "a@b.c", "--yes", "--reason", "x"], 3, "no row matches"),
        (["erase", "--email", "a@b.c", "--yes", "--reason", "x"], 3, "not in interaction ids, agent ids"),
        (["prune", "--yes", "--reason", "x"], 3, "no row matches"),
        (["audit", "--head", "x"], 2, "goes with --verify"),
        (["audit", "--verify", "--head", "x"], 4, "no entry has the hash"),
        (["discard", "--all", "--yes", "--reason", "x"], 3, "no row matches"),
        (["list", "--all"], 3, "no row matches"),
        (["list", "--group-by", "error"], 3, "no parked row matches"),
        (["inference", "list", "--all"], 3, "no parked call matches"),
        (["audit"], 3, "no entry"),
    ],
)
def test_what_is_asked_wrongly_or_matches_nothing(
    deployment: Deployment, arguments: list[str], code: int, told: str
) -> None:
    """Exit code 2 for usage, 3 for nothing matched, a word of why; nothing is changed."""
    ended = command(deployment.environ, *arguments)
    assert (ended.returncode, told in ended.stderr) == (code, True), ended.stderr


def read_until(terminal: int, wanted: str) -> str:
    """What comes out of a terminal, up to these words or its end."""
    told = b""
    with contextlib.suppress(OSError):  # so a terminal ends
        while wanted.encode() not in told:
            told += os.read(terminal, 1024)
    return told.decode()


def test_on_a_terminal_it_asks_and_leaves_what_changed_meanwhile(store: Store, engine: Engine) -> None:
    """Another operator acts between question and answer: that row is reported and left; a bar tells progress."""
    ids = record(store, new_rows(3))
    park(store, engine, dict.fromkeys(ids, "too large"))
    command = [sys.executable, "-m", "relay", "retry", "--all", "--reason", "limit raised", "--as", "ann"]
    environ = {**os.environ, "DATABASE_URL": engine.url.render_as_string(hide_password=False), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    asked = read_until(ours, "retry 3 row(s)? [y/N]")
    assert ("looking for rows" in asked, "retry of 3 row(s)" in asked) == (True, True)
    operations = Operations(engine)
    operations.discard(planned(operations, ids=(ids[0],)), AuditContext("bob", "a test call", RowFilter()))
    os.write(ours, b"y\n")
    told = read_until(ours, "(nothing)")
    os.close(ours)
    assert (asking.wait(60), asking.communicate()[0]) == (5, b"retry: 2 row(s) done\n")
    assert "1 row(s) changed since they were shown, and are left as they are" in told
    assert ("3/3" in told, "rows/s" in told) == (True, True)
    assert states(engine) == {ids[0]: "discarded", ids[1]: "pending", ids[2]: "pending"}


def test_a_change_that_fails_half_way_says_how_to_go_on(store: Store, engine: Engine) -> None:
    """The database is not what it was after the first rows: code 5, what is left, and a command that does the rest."""
    ids = record(store, new_rows(8))
    mark_sent(store, 1, planned(Operations(engine)))
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "relay", "replay", "--all", "--rate", "2", "--reason", "lost", "--yes"]
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_ACTOR": "ann"}
    working = subprocess.Popen(
        command, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: len(states(engine)) > 8, "the first rows are replayed")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox RENAME TO elsewhere"))
    stdout, stderr = working.communicate(timeout=60)
    assert working.returncode == 5, stderr
    left = 8 - int(stdout.split()[1])
    assert 0 < left < 8
    assert f": {left} row(s) are as they were. To continue: relay replay " in stderr
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO outbox"))
    again = shlex.split(stderr.split("To continue: relay ")[1])
    rest = on_command_line({"DATABASE_URL": url}, *again, "--rate", "1000", "--yes")
    assert rest.stdout == f"replay: {left} row(s) done\n"
    with engine.connect() as connection:
        made = connection.execute(text("SELECT replay_of FROM outbox WHERE replay_of IS NOT NULL ORDER BY id"))
        assert list(made.scalars()) == ids


def test_without_a_filter_prune_takes_what_the_relay_would(store: Store, engine: Engine) -> None:
    """A row that was received long ago and discarded just now can still be replayed, so it stays."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    ids = record(store, new_rows(2))
    park(store, engine, dict.fromkeys(ids, "too large"))
    operations = Operations(engine)
    operations.discard(planned(operations), AuditContext("ann", "test calls", RowFilter()))
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET received_at = 1"))
        connection.execute(text(f"UPDATE outbox SET changed_at = 1 WHERE id = {ids[0]}"))
    done = on_command_line(environ, "prune", "--reason", "disk is short", "--yes")
    assert (done.stdout, list(states(engine))) == ("prune: 1 row(s) done\n", ids[1:])


def test_root_must_say_who_it_is(deployment: Deployment) -> None:
    """Nobody is on record as root: the actor is named, or nothing happens."""
    unnamed = command(deployment.environ, "retry", "--all", "--yes", "--reason", "x", RELAY_ACTOR="")
    refused = os.getuid() == 0  # any other user has a name of its own
    assert (unnamed.returncode, "--as NAME" in unnamed.stderr) == ((2, True) if refused else (3, False))
    named = command(deployment.environ, "retry", "--all", "--yes", "--reason", "x", "--as", "ann", RELAY_ACTOR="")
    assert named.returncode == 3


def test_data_cannot_steer_the_terminal(store: Store, engine: Engine) -> None:
    """Control characters and marks that turn the direction are escaped, whatever shows them: rows, plans, errors."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    odd = "a\x1b[2Jb\u202ec\u200fd\x9be"
    ids = record(store, [new_row(odd, channel="voice\x07"), new_row("i-2")])
    park(store, engine, {ids[0]: "too large\x1b[31m"})
    shown = [
        on_command_line(environ, *arguments)
        for arguments in (
            ["list", "--all"],
            ["list", "--group-by", "error"],
            ["show", str(ids[0])],
            ["show", str(ids[0]), "--json"],
            ["retry", "--all", "--dry-run"],
            ["retry", "--interaction", odd, "--reason", "seen", "--yes"],
            ["audit"],
            ["audit", "--json"],
        )
    ]
    for ended in shown:
        assert ended.returncode == 0, ended.stderr
        assert not set("\x1b\u202e\u200f\x9b\x07") & set(ended.stdout + ended.stderr), ended
    assert "a\\x1b[2Jb\\u202ec\\u200fd\\x9be voice\\x07: too large\\x1b[31m" in shown[0].stdout


def test_tags_are_text_in_json(store: Store, engine: Engine) -> None:
    """Also a sender's own time, which may have 64 bits; what is read with doubles is what is stored."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    (row_id,) = record(store, [new_row("i-1", timestamp_ms=2**63 - 1)])
    (listed,) = map(json.loads, on_command_line(environ, "list", "--all", "--json").stdout.splitlines())
    shown = json.loads(on_command_line(environ, "show", str(row_id), "--json").stdout)
    with engine.connect() as connection:
        nonce = connection.execute(text("SELECT nonce FROM outbox")).scalar_one()
    assert (listed["nonce"], shown["timestamp_ms"]) == (str(nonce), str(2**63 - 1))
    assert (listed["id"], isinstance(listed["received_at_ms"], int)) == (row_id, True)


def test_a_status_is_watched_through_a_pipe(engine: Engine) -> None:
    """A plain table after the other, each with its time; Ctrl-C ends it in order."""
    url = engine.url.render_as_string(hide_password=False)
    watching = subprocess.Popen(
        [sys.executable, "-m", "relay", "status", "--watch", "0.2"],
        cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(10)]
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=60)
    assert (watching.returncode, said) == (0, "")
    for first in (0, 5):
        moment, head, shard, total, owner = lines[first : first + 5]
        assert datetime.fromisoformat(moment.strip()).tzinfo is not None
        assert (head.split()[:2], shard.split()[:1], total.split()[:1]) == (["shard", "epoch"], ["0"], ["total"])
        assert owner == "shard 0: sent by nobody\n"


def test_a_finished_plan_says_so(store: Store, engine: Engine) -> None:
    """Sixty rows match, and all were replayed: by which plan, entry and when; not that nothing matches."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    record(store, new_rows(60))
    mark_sent(store, 1, planned(Operations(engine)))
    for further, verb in (((), "replay "), (("--inference-only",), "replay ")):
        arguments = ("replay", "--channel", "voice", *further, "--until", "1s", "--reason", "lost", "--plan", "p-1")
        with engine.begin() as connection:
            connection.execute(text("UPDATE outbox SET received_at = received_at - 10000 WHERE replay_of IS NULL"))
        assert on_command_line(environ, *arguments, "--yes").stdout == "replay: 60 row(s) done\n"
        for again in ("--yes", "--dry-run"):
            finished = on_command_line(environ, *arguments, again)
            assert finished.returncode == 3
            assert f"all 60 row(s) that match were replayed already: {verb}p-1" in finished.stderr, finished.stderr
            assert re.search(r"audit entry \d+, 20\d\d-.*T.*[+-]\d\d:\d\d\. To replay them", finished.stderr)


def test_rows_in_another_state_are_named(store: Store, engine: Engine) -> None:
    """A retry of a row that is sent, or given twice: not that there is no such row."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    ids = record(store, new_rows(3, interactions=1))
    park(store, engine, {ids[0]: "too large"})
    retry = ("retry", "--interaction", "i-0", "--reason", "limit raised", "--yes")
    assert on_command_line(environ, *retry).returncode == 0
    again = on_command_line(environ, *retry)
    assert (again.returncode, again.stderr) == (3, "retry: no parked row matches, only 3 pending\n")
    pruned = on_command_line(environ, "prune", "--id", str(ids[0]), "--dry-run")
    assert (pruned.returncode, pruned.stderr) == (3, "prune: no settled row matches, only 1 pending\n")
    none = on_command_line(environ, "retry", "--id", "4711", "--dry-run")
    assert (none.returncode, none.stderr) == (3, "retry: no row matches\n")


def test_what_an_erasure_says_is_true_of_the_rows(store: Store, engine: Engine) -> None:
    """Records with the address stay in Kafka where there was one; afterwards nothing is left to reveal."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False), "KAFKA_BOOTSTRAP_SERVERS": ""}
    ids = record(store, [new_row("with"), new_row("without", customer_email=None, agent_id=None)])
    mark_sent(store, 1, planned(Operations(engine)))
    why = ("--reason", "request 17", "--yes")
    without = on_command_line(environ, "erase", "--interaction", "without", *why)
    assert (without.returncode, "address" in without.stderr) == (0, False), without.stderr
    assert "the received body is removed" in without.stderr
    with_address = on_command_line(environ, "erase", "--interaction", "with", *why)
    assert "1 of them are sent with the address: their records stay in Kafka" in with_address.stderr
    again = on_command_line(environ, "erase", "--interaction", "with", *why)
    assert (again.returncode, again.stderr) == (3, "erase: 1 row(s) match, and hold no personal data any more\n")
    agent, nothing = (on_command_line(environ, "show", str(row_id)).stdout for row_id in ids)
    assert ("payload       erased" in agent, "masked        agent (--reveal" in agent) == (True, True)
    assert ("payload       erased" in nothing, "masked" in nothing, "--reveal" in nothing) == (True, False, False)
    assert json.loads(on_command_line(environ, "show", str(ids[1]), "--json").stdout)["payload"] is None
    revealed = on_command_line(environ, "show", str(ids[1]), "--reveal", "--reason", "looking").stdout
    assert "payload       erased" in revealed


def test_an_address_can_be_read_instead_of_given(store: Store, engine: Engine) -> None:
    """So that no list of processes and no shell's history holds it; nor does the command that goes on."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    record(store, [new_row("one", customer_email="ann@example.com"), new_row("two", customer_email=None)])
    erase = ("erase", "--email", "-", "--reason", "request 17")
    looked = on_command_line(environ, *erase, "--dry-run", stdin="Ann@example.com\n")
    expect(looked, 0, stderr="1 row")
    assert "ann@" not in looked.stderr.lower()
    done = on_command_line(environ, *erase, "--yes", stdin="ann@example.com\n")
    assert done.returncode == 0, done.stderr
    nothing = on_command_line(environ, *erase, "--yes")
    expect(nothing, 2, stderr="it is empty")


def test_the_help_of_each_verb_has_two_examples() -> None:
    """Nobody looks a verb up elsewhere at three in the morning."""

    def verbs(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
        context = click.Context(group)
        for each in group.list_commands(context):
            command, path = group.get_command(context, each), f"{name} {each}"
            if isinstance(command, click.Group):
                yield from verbs(command, path)
            elif command is not None:
                yield path, command

    told = dict(verbs(main, "relay"))
    assert len(told) > len(VERBS)  # one is a group
    for path, each in told.items():
        examples = (each.help or "").partition("Examples:")[2]
        assert examples.count(path) >= 2, path
