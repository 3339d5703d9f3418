"""Operators' commands on real rows, most of them beside a running relay."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from confluent_kafka.admin import NewTopic
from sqlalchemy import Engine, text

from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.format import plural
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit import ROOT
from testkit.command_line import command, expect
from testkit.deployment import Deployment
from testkit.outbox import mark_sent, park, planned, record, states
from testkit.rows import incompressible, new_row, new_rows
from testkit.topic import alter_topic, create_topics
from testkit.waiting import wait_until


def test_a_parked_row_is_found_and_retried(deployment: Deployment) -> None:
    """A refused record blocks its interaction. After the limit is raised and the row retried, the order is kept."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record([new_row("i-1"), new_row("i-1", **incompressible()), new_row("i-1"), new_row("i-2")])
    deployment.relay()
    wait_until(
        lambda: deployment.query("SELECT id FROM outbox_rows WHERE state = 'parked'") == [(ids[1],)], "it is parked"
    )
    assert [shard.waiting for shard in deployment.store.status()] == [1]
    groups = command(deployment.environ, "list", "--group-by", "error", "--json")
    assert json.loads(groups.stdout)["rows"] == 1
    listed = command(deployment.environ, "list", "--state", "parked", "--json")
    assert json.loads(listed.stdout)["id"] == ids[1]
    planned = command(deployment.environ, "retry", "--error", "MSG_SIZE_TOO_LARGE", "--dry-run")
    expect(planned, 0, stderr="waiting behind it (1 now)")
    alter_topic(deployment.client_config, deployment.topic, "max.message.bytes", "1048576")
    unconfirmed = command(deployment.environ, "retry", "--id", str(ids[1]), "--reason", "limit raised")
    expect(unconfirmed, 2, stderr="--yes")
    done = command(deployment.environ, "retry", "--id", str(ids[1]), "--reason", "limit raised", "--yes")
    expect(done, 0, stdout="retry: 1 row done\n")
    assert "rows/s" not in done.stderr  # only terminals get a progress bar
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    (entry,) = map(json.loads, command(deployment.environ, "audit", "--json").stdout.splitlines())
    assert (entry["actor"], entry["verb"], entry["reason"], entry["row_ids"]) == (
        "ann", "retry", "limit raised", [ids[1]],
    )  # fmt: skip
    expect(command(deployment.environ, "audit", "--verify"), 0)


def test_a_discard_unblocks_the_interaction(deployment: Deployment) -> None:
    """The discarded row never reaches the topic; the rows behind it do."""
    create_topics(deployment.client_config, NewTopic(deployment.topic, 2, 1, config={"max.message.bytes": "500"}))
    ids = deployment.record([new_row("i-1", **incompressible()), new_row("i-1"), new_row("i-1")])
    deployment.relay()
    wait_until(
        lambda: deployment.query("SELECT id FROM outbox_rows WHERE state = 'parked'") == [(ids[0],)], "it is parked"
    )
    done = command(deployment.environ, "discard", "--interaction", "i-1", "--reason", "a test call", "--yes")
    expect(done, 0)
    deployment.wait_drained()
    assert [record.outbox_id for record in deployment.seen()] == ids[1:]
    assert deployment.query("SELECT state FROM outbox_rows ORDER BY id") == [("discarded",), ("sent",), ("sent",)]


def test_a_replay_sends_rows_again(deployment: Deployment) -> None:
    """Copies arrive after the originals, in their order, with the header replay-of. The same plan adds nothing."""
    ids = deployment.record(new_rows(20, interactions=4))
    deployment.relay()
    deployment.wait_drained()
    arguments = ("replay", "--interaction", "i-1", "--plan", "p1", "--reason", "consumer lost them", "--yes")
    expect(command(deployment.environ, *arguments), 0)
    deployment.wait_drained()
    again = [record for record in deployment.seen() if "replay-of" in record.headers]
    assert [int(record.headers["replay-of"]) for record in again] == ids[1::4]
    assert {record.key for record in again} == {"i-1"}
    assert len(deployment.seen()) == 25
    repeated = command(deployment.environ, *arguments)
    expect(repeated, 3, stderr="already replayed all 5 matching rows: replay p1, audit entry 1, 20")
    assert len(command(deployment.environ, "list", "--interaction", "i-1").stdout.splitlines()) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["list"], 2, "select rows by a filter"),
        (["list", "--all", "--channel", "voice"], 2, "not both"),
        (["list", "--since", "soon"], 2, "'soon' is not a time"),
        (["retry", "--all", "--yes"], 2, "--reason"),
        (["retry", "--yes", "--reason", "x"], 2, "select rows by a filter"),
        (["retry", "--state", "sent", "--yes", "--reason", "x"], 2, "takes parked rows only"),
        (["retry", "--all", "--yes", "--reason", " "], 2, "is blank"),
        (["replay", "--all", "--yes", "--reason", "x", "--plan", "a:1"], 2, "takes 1 to 64 letters"),
        (["replay", "--all", "--state", "parked", "--yes", "--reason", "x"], 2, "not both"),
        (["retry", "--all", "--yes", "--reason", "for ann@example.com"], 2, "not by an e-mail address"),
        (["replay", "--all", "--yes", "--reason", "x", "--topic", "t"], 2, "is not in KAFKA_REPLAY_TOPICS"),
        (["replay", "--all", "--yes", "--reason", "x", "--topic", "t", "--inference-only"], 2, "give no --topic"),
        (["list", "--group-by", "error", "--state", "sent"], 2, "shows parked rows"),
        (["inference", "retry", "--all", "--yes", "--reason", "x"], 3, "no row matches"),
        (["inference", "list", "--state", "sent"], 2, "takes parked calls only"),
        (["erase", "--yes", "--reason", "x"], 2, "by either --email or --interaction"),
        (["erase", "--email", "a@b.c", "--yes", "--reason", "x"], 3, "no row matches"),
        (["erase", "--email", "a@b.c", "--yes", "--reason", "x"], 3, "Not searched: interaction ids, agent ids"),
        (["prune", "--yes", "--reason", "x"], 3, "no row matches"),
        (["audit", "--head", "x"], 2, "requires --verify"),
        (["audit", "--verify", "--head", "x"], 4, "no entry has the hash"),
        (["discard", "--all", "--yes", "--reason", "x"], 3, "no row matches"),
        (["list", "--all"], 3, "no row matches"),
        (["list", "--group-by", "error"], 3, "no parked row matches"),
        (["inference", "list", "--all"], 3, "no parked call matches"),
        (["audit"], 3, "no entry"),
    ],
)
def test_wrong_usage_and_empty_selections_are_explained(
    deployment: Deployment, arguments: list[str], code: int, message: str
) -> None:
    """Exit code 2 for wrong usage, 3 if nothing matches, 4 for a failed check."""
    expect(command(deployment.environ, *arguments), code, stderr=message)


def read_until(terminal: int, text: str) -> str:
    """Read from a terminal up to a text or the end."""
    printed = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while text.encode() not in printed:
            printed += os.read(terminal, 1024)
    return printed.decode()


def test_a_terminal_asks_and_skips_rows_changed_meanwhile(store: Store, engine: Engine) -> None:
    """A row that another operator changes before the answer is skipped and reported. A bar shows the progress."""
    ids = record(store, new_rows(3))
    park(store, engine, dict.fromkeys(ids, "too large"))
    retry = [sys.executable, "-m", "relay", "retry", "--all", "--reason", "limit raised", "--as", "ann"]
    environ = {**os.environ, "DATABASE_URL": engine.url.render_as_string(hide_password=False), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(retry, cwd=ROOT, env=environ, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    question = read_until(ours, "retry 3 rows? [y/N]")
    assert "finding rows" in question
    assert "retry 3 rows:" in question
    operations = Operations(engine)
    operations.discard(planned(operations, ids=(ids[0],)), AuditContext("bob", "a test call", RowFilter()))
    os.write(ours, b"y\n")
    printed = read_until(ours, "(nothing)")
    os.close(ours)
    assert asking.wait(60) == 5, printed
    assert asking.communicate()[0] == b"retry: 2 rows done\n"
    assert "skipped 1 row changed by somebody else since the plan" in printed
    assert "3/3" in printed
    assert "rows/s" in printed
    assert states(engine) == {ids[0]: "discarded", ids[1]: "pending", ids[2]: "pending"}


def test_a_change_that_fails_half_way_says_how_to_continue(store: Store, engine: Engine) -> None:
    """The database fails after the first rows: exit code 5, the number of rows left, and a command for the rest."""
    ids = record(store, new_rows(8))
    mark_sent(store, 1, planned(Operations(engine)))
    url = engine.url.render_as_string(hide_password=False)
    replay = [sys.executable, "-m", "relay", "replay", "--all", "--rate", "2", "--reason", "lost", "--yes"]
    environ = {**os.environ, "DATABASE_URL": url, "RELAY_ACTOR": "ann"}
    working = subprocess.Popen(replay, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: len(states(engine)) > 8, "the first rows are replayed")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox RENAME TO elsewhere"))
    stdout, stderr = working.communicate(timeout=60)
    assert working.returncode == 5, stderr
    left = 8 - int(stdout.split()[1])
    assert 0 < left < 8
    rows = plural(left, "row")
    assert f": {rows} not processed. To continue: relay replay " in stderr
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO outbox"))
    again = shlex.split(stderr.split("To continue: relay ")[1])
    rest = command({"DATABASE_URL": url}, *again, "--rate", "1000", "--yes")
    expect(rest, 0, stdout=f"replay: {rows} done\n")
    with engine.connect() as connection:
        made = connection.execute(text("SELECT replay_of FROM outbox WHERE replay_of IS NOT NULL ORDER BY id"))
        assert list(made.scalars()) == ids


def test_a_prune_without_a_filter_applies_the_retention(store: Store, engine: Engine) -> None:
    """A row that was received long ago but discarded recently is kept, because it can still be replayed."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    ids = record(store, new_rows(2))
    park(store, engine, dict.fromkeys(ids, "too large"))
    operations = Operations(engine)
    operations.discard(planned(operations), AuditContext("ann", "test calls", RowFilter()))
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET received_at = 1"))
        connection.execute(text(f"UPDATE outbox_parked SET changed_at = 1 WHERE id = {ids[0]}"))
    done = command(environ, "prune", "--reason", "disk is short", "--yes")
    expect(done, 0, stdout="prune: 1 row done\n")
    assert list(states(engine)) == ids[1:]


def test_root_must_name_an_actor(deployment: Deployment) -> None:
    """The audit log names a person: root gives --as, any other user is named after itself."""
    retry = ("retry", "--all", "--yes", "--reason", "x")
    unnamed = command(deployment.environ, *retry, RELAY_ACTOR="")
    if os.getuid() == 0:
        expect(unnamed, 2, stderr="--as NAME")
    else:
        expect(unnamed, 3)
    expect(command(deployment.environ, *retry, "--as", "ann", RELAY_ACTOR=""), 3)


def test_data_cannot_control_the_terminal(store: Store, engine: Engine) -> None:
    """Control characters and marks that change the text direction are escaped in rows, plans and errors."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    odd = "a\x1b[2Jb\u202ec\u200fd\x9be"
    ids = record(store, [new_row(odd, channel="voice\x07"), new_row("i-2")])
    park(store, engine, {ids[0]: "too large\x1b[31m"})
    shown = [
        command(environ, *arguments)
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
        expect(ended, 0)
        assert not set("\x1b\u202e\u200f\x9b\x07") & set(ended.stdout + ended.stderr), ended
    assert "a\\x1b[2Jb\\u202ec\\u200fd\\x9be voice\\x07: too large\\x1b[31m" in shown[0].stdout


def test_a_row_is_found_by_its_idempotency_key(store: Store, engine: Engine) -> None:
    """The outbox has only the digest of a sender's key; whoever has the text finds the row, alone or in its state."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    ids = record(store, [new_row("i-1", key="order-4711"), new_row("i-1", key="order-4712"), new_row("i-1")])
    found = command(environ, "list", "--idempotency-key", "order-4712", "--json")
    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == [ids[1]]
    assert "order-471" not in found.stdout
    for none in (("order-4713",), ("order-4712", "--state", "parked"), ("ORDER-4712",)):
        expect(command(environ, "list", "--idempotency-key", *none), 3, stderr="list: no row matches")
    park(store, engine, {ids[0]: "too large", ids[2]: "too large"})
    grouped = command(environ, "list", "--group-by", "error", "--idempotency-key", "order-4711", "--json")
    assert json.loads(grouped.stdout)["rows"] == 1
    expect(command(environ, "list", "--idempotency-key", ""), 2, stderr="must not be empty")


def test_64_bit_fields_are_text_in_json(store: Store, engine: Engine) -> None:
    """A reader that stores numbers as doubles loses no digit of a row's nonce or of a sender's timestamp."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    (row_id,) = record(store, [new_row("i-1", timestamp_ms=2**63 - 1)])
    (listed,) = map(json.loads, command(environ, "list", "--all", "--json").stdout.splitlines())
    shown = json.loads(command(environ, "show", str(row_id), "--json").stdout)
    with engine.connect() as connection:
        nonce = connection.execute(text("SELECT nonce FROM outbox")).scalar_one()
    assert (listed["nonce"], shown["timestamp_ms"]) == (str(nonce), str(2**63 - 1))
    assert (listed["id"], isinstance(listed["received_at_ms"], int)) == (row_id, True)


def test_a_watched_status_can_be_piped(engine: Engine) -> None:
    """One plain table follows the other, each with its time; Ctrl-C ends it with exit code 0."""
    url = engine.url.render_as_string(hide_password=False)
    watching = subprocess.Popen(
        [sys.executable, "-m", "relay", "status", "--watch", "0.2"],
        cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(10)]
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)
    assert watching.returncode == 0, errors
    assert errors == ""
    for first in (0, 5):
        time, heading, shard, total, owner = lines[first : first + 5]
        assert datetime.fromisoformat(time.strip()).tzinfo is not None
        assert heading.split()[:2] == ["shard", "epoch"]
        assert shard.split()[0] == "0"
        assert total.split()[0] == "total"
        assert owner == "shard 0: no owner\n"


def test_a_finished_replay_says_so(store: Store, engine: Engine) -> None:
    """If the plan has replayed every matching row, the message names plan, audit entry and time."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    record(store, new_rows(60))
    mark_sent(store, 1, planned(Operations(engine)))
    for mode in ((), ("--inference-only",)):
        arguments = ("replay", "--channel", "voice", *mode, "--until", "1s", "--reason", "lost", "--plan", "p-1")
        with engine.begin() as connection:
            connection.execute(text("UPDATE outbox SET received_at = received_at - 10000 WHERE replay_of IS NULL"))
        assert command(environ, *arguments, "--yes").stdout == "replay: 60 rows done\n"
        for again in ("--yes", "--dry-run"):
            finished = command(environ, *arguments, again)
            expect(finished, 3, stderr="already replayed all 60 matching rows: replay p-1")
            assert re.search(r"audit entry \d+, 20\d\d-.*T.*[+-]\d\d:\d\d\. To replay again", finished.stderr)


def test_rows_in_another_state_are_named(store: Store, engine: Engine) -> None:
    """If a row selected by id or interaction is in another state, the message says which."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    ids = record(store, new_rows(3, interactions=1))
    park(store, engine, {ids[0]: "too large"})
    retry = ("retry", "--interaction", "i-0", "--reason", "limit raised", "--yes")
    expect(command(environ, *retry), 0)
    again = command(environ, *retry)
    expect(again, 3, stderr="retry: no parked row matches, only 3 pending\n")
    pruned = command(environ, "prune", "--id", str(ids[0]), "--dry-run")
    expect(pruned, 3, stderr="prune: no finished row matches, only 1 pending\n")
    none = command(environ, "retry", "--id", "4711", "--dry-run")
    expect(none, 3, stderr="retry: no row matches\n")


def test_an_erasure_names_what_stays_in_kafka(store: Store, engine: Engine) -> None:
    """Only rows that had an address have records with it. Afterwards nothing is left to reveal."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False), "KAFKA_BOOTSTRAP_SERVERS": ""}
    ids = record(store, [new_row("with"), new_row("without", customer_email=None, agent_id=None)])
    mark_sent(store, 1, planned(Operations(engine)))
    why = ("--reason", "request 17", "--yes")
    without = command(environ, "erase", "--interaction", "without", *why)
    expect(without, 0, stderr="the received body is removed")
    assert "address" not in without.stderr
    with_address = command(environ, "erase", "--interaction", "with", *why)
    expect(with_address, 0, stderr="1 of them were sent with the address: the records stay in Kafka")
    again = command(environ, "erase", "--interaction", "with", *why)
    expect(again, 3, stderr="erase: the data of 1 matching row is erased already\n")
    agent, nothing = (command(environ, "show", str(row_id)).stdout for row_id in ids)
    assert "payload       erased" in agent
    assert "masked        agent (--reveal" in agent
    assert "payload       erased" in nothing
    assert "masked" not in nothing
    assert "--reveal" not in nothing
    assert json.loads(command(environ, "show", str(ids[1]), "--json").stdout)["payload"] is None
    revealed = command(environ, "show", str(ids[1]), "--reveal", "--reason", "looking").stdout
    assert "payload       erased" in revealed


def test_an_address_can_be_read_from_standard_input(store: Store, engine: Engine) -> None:
    """This keeps it out of process lists, shell history and the command's own output."""
    environ = {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    record(store, [new_row("one", customer_email="ann@example.com"), new_row("two", customer_email=None)])
    erase = ("erase", "--email", "-", "--reason", "request 17")
    planned = command(environ, *erase, "--dry-run", stdin="Ann@example.com\n")
    expect(planned, 0, stderr="1 row")
    assert "ann@" not in planned.stderr.lower()
    expect(command(environ, *erase, "--yes", stdin="ann@example.com\n"), 0)
    nothing = command(environ, *erase, "--yes")
    expect(nothing, 2, stderr="must not be empty")
