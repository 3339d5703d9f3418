"""Several relays on one outbox: they share its shards, hand them over, take them over, and pause."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from outbox.leases import Leases
from outbox.operators.audit import AuditContext
from outbox.operators.pause import pause_shards, resume_shards
from outbox.operators.rows import RowFilter
from testkit import ROOT
from testkit.command_line import command
from testkit.deployment import Deployment, NewDeployment
from testkit.relay_process import RelayProcess
from testkit.rows import new_rows
from testkit.waiting import DEADLINE_SECONDS, wait_until

CONTEXT = AuditContext("ann", "drill", RowFilter())
HANDOVER_SECONDS = 3.0
"""How long a handover after SIGTERM may take; ``slack`` is added for a busy machine."""


def owners(deployment: Deployment) -> Counter[str]:
    """How many shards each relay owns."""
    return Counter(s.owner for s in deployment.store.status() if s.owner and s.lease_remaining_ms > 0)


def relay_on_another_host(deployment: Deployment, directory: str, **environ: str) -> RelayProcess:
    """A relay that seems to run on another host: other relays do not see its lock file, only its lease."""
    temporary = deployment.folder / directory
    temporary.mkdir(exist_ok=True)
    return deployment.relay(None, 1, TMPDIR=str(temporary), **environ)


def slack() -> float:
    """Seconds that a busy machine may add to a bound; ``bench.takeover`` measures without it."""
    return DEADLINE_SECONDS / 4


def test_relays_share_evenly_and_hand_over_at_sigterm(new_deployment: NewDeployment) -> None:
    """A second relay gets half of the shards; after SIGTERM of the first it has all of them within seconds."""
    deployment = new_deployment(shards=4, RELAY_LEASE_SECONDS="600", RELAY_BATCH_SIZE="20")
    ids = deployment.record(new_rows(200, interactions=40))
    first = deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [4], "the first relay owns every shard")
    second = deployment.relay()
    wait_until(lambda: sorted(owners(deployment).values()) == [2, 2], "each relay owns its share")
    ids += deployment.record(new_rows(400, interactions=40))
    began = time.monotonic()
    first.signal(signal.SIGTERM)
    wait_until(lambda: list(owners(deployment).values()) == [4], "the second relay owns every shard")
    assert time.monotonic() - began < HANDOVER_SECONDS + slack()
    ids += deployment.record(new_rows(100, interactions=40))
    deployment.wait_drained()
    assert first.wait(25) == 0
    assert not second.degraded()
    deployment.check_exactly_once(ids)


@pytest.mark.parametrize("hours", [1, -1], ids=["ahead", "back"])
def test_a_database_clock_that_is_set_moves_no_shard(new_deployment: NewDeployment, hours: int) -> None:
    """Every heartbeat and lease ends at once, or too late to be one; each relay waits for the others before it acts."""
    deployment = new_deployment(shards=4, RELAY_LEASE_SECONDS="15")  # which no pause of a busy machine outlasts
    relays = [relay_on_another_host(deployment, name) for name in "ab"]
    wait_until(lambda: sorted(owners(deployment).values()) == [2, 2], "each relay owns its share")
    epochs = deployment.query("SELECT shard, epoch FROM outbox_shard ORDER BY shard")
    joined = deployment.query("SELECT owner, joined_at FROM outbox_relay ORDER BY owner")
    by_ms = -hours * 3_600_000
    with deployment.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE outbox_relay SET expires_at = expires_at + {by_ms}")
        connection.exec_driver_sql(f"UPDATE outbox_shard SET lease_expires_at = lease_expires_at + {by_ms}")
    ids = deployment.record(new_rows(40, interactions=40))
    for _ in range(2):  # by the second time, each relay has looked at the other's first heartbeat
        written = dict(deployment.query("SELECT owner, expires_at FROM outbox_relay"))
        wait_until(partial(later, deployment, written), "every relay has written a heartbeat")
    deployment.wait_drained()
    assert deployment.query("SELECT shard, epoch FROM outbox_shard ORDER BY shard") == epochs
    assert deployment.query("SELECT owner, joined_at FROM outbox_relay ORDER BY owner") == joined
    assert all(relay.running() for relay in relays)
    deployment.check_exactly_once(ids)


def later(deployment: Deployment, written: dict[str, int]) -> bool:
    """Whether every relay has written another heartbeat than this."""
    found = dict(deployment.query("SELECT owner, expires_at FROM outbox_relay"))
    return all(found.get(owner, at) != at for owner, at in written.items())


def test_the_shards_of_a_dead_relay_move_when_its_lease_expires(new_deployment: NewDeployment) -> None:
    """Killed on another host: the other relay sends every shard within the lease time plus two seconds."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="10")  # which no pause of a busy machine outlasts
    first, second = relay_on_another_host(deployment, "a"), relay_on_another_host(deployment, "b")
    ids = deployment.record(new_rows(50))
    wait_until(lambda: sorted(owners(deployment).values()) == [1, 1], "each relay owns its share")
    deployment.wait_drained()
    began = time.monotonic()
    first.kill()
    ids += deployment.record(new_rows(50, interactions=30))
    deployment.wait_drained()
    assert time.monotonic() - began < 10 + 2 + slack()
    assert list(owners(deployment).values()) == [2]
    assert not second.degraded()
    deployment.check_exactly_once(ids)


def test_a_restart_on_the_same_host_does_not_wait_for_the_lease(new_deployment: NewDeployment) -> None:
    """The lease of a dead process is taken over at once, and its membership is removed."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="600")
    first = deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [2], "it owns every shard")
    first.kill()
    ids = deployment.record(new_rows(50))
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    wait_until(lambda: deployment.query("SELECT count(*) FROM outbox_relay") == [(1,)], "the dead relay is removed")


def test_a_standby_owns_nothing_until_it_takes_over(new_deployment: NewDeployment) -> None:
    """One shard, two relays: the second is healthy without a shard, and owns it after SIGTERM of the first."""
    deployment = new_deployment()
    first = deployment.relay()
    wait_until(lambda: len(owners(deployment)) == 1, "the first relay owns the shard")
    second = deployment.relay()
    wait_until(lambda: deployment.query("SELECT count(*) FROM outbox_relay") == [(2,)], "the second relay has joined")
    assert not second.degraded()
    (before,) = owners(deployment)
    assert first.stop() == 0
    ids = deployment.record(new_rows(20))
    deployment.wait_drained()
    (after,) = owners(deployment)
    assert before != after
    deployment.check_exactly_once(ids)


def test_an_unhealthy_relay_leaves_its_shards_to_others(new_deployment: NewDeployment) -> None:
    """The other relay owns its share until it is healthy again."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="3")
    leases = Leases(deployment.engine, "cut-off", 600)
    leases.heartbeat(healthy=True)
    deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [1], "the cut-off relay keeps its share")
    leases.heartbeat(healthy=False)
    wait_until(lambda: list(owners(deployment).values()) == [2], "the other relay owns every shard")
    leases.heartbeat(healthy=True)
    wait_until(lambda: list(owners(deployment).values()) == [1], "the share is given back")


def test_a_paused_outbox_sends_nothing_and_reports_why(new_deployment: NewDeployment) -> None:
    """Status, readiness and log name reason and actor; after the resume every row is sent."""
    deployment = new_deployment(shards=2)
    ids = deployment.record(new_rows(20))
    running = deployment.relay()
    deployment.wait_drained()
    paused = command(deployment.environ, "pause", "--reason", "broker upgrade")
    assert paused.returncode == 0, paused.stderr
    assert paused.stdout == "paused shards 0, 1 until relay resume\n"
    wait_until(lambda: not owners(deployment), "the shards are given back")
    running.wait_degraded("shard 1", "paused by ann: broker upgrade")
    ids += deployment.record(new_rows(20))
    (first, second) = map(json.loads, command(deployment.environ, "status", "--json").stdout.splitlines())
    assert (first["owner"], first["paused_by"], first["paused_reason"]) == (None, "ann", "broker upgrade")
    assert first["pending"] + second["pending"] == 20
    assert "paused by ann: broker upgrade" in command(deployment.environ, "status", COLUMNS="200").stdout
    assert "paused by ann: broker upgrade" in running.log.read_text()
    assert command(deployment.environ, "resume", "--shard", "1", "--reason", "half").returncode == 0
    wait_until(lambda: list(owners(deployment).values()) == [1], "one shard is owned again")
    assert command(deployment.environ, "resume", "--reason", "done").returncode == 0
    assert command(deployment.environ, "resume", "--reason", "done").returncode == 3
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded any more")
    deployment.check_exactly_once(ids)
    verbs = [json.loads(line)["verb"] for line in command(deployment.environ, "audit", "--json").stdout.splitlines()]
    assert verbs == ["pause every shard", "resume shard 1", "resume every shard"]


def test_a_pause_with_a_duration_needs_no_resume(deployment: Deployment) -> None:
    """With --for, the relay continues by itself."""
    running = deployment.relay()
    wait_until(lambda: owners(deployment), "it owns the shard")
    paused = command(deployment.environ, "pause", "--for", "6s", "--reason", "drill")
    assert paused.stdout == "paused shard 0 for 6 s or until relay resume\n"
    wait_until(lambda: "paused by ann: drill" in running.log.read_text(), "the pause is logged")
    ids = deployment.record(new_rows(20))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pause"], 2, "--reason"),
        (["pause", "--reason", "x", "--for", "soon"], 2, "is not a duration"),
        (["pause", "--reason", "x", "--shard", "5"], 3, "no such shard: 5"),
        (["pause", "--reason", "for ann@example.com"], 2, "not by an e-mail address"),
        (["resume", "--reason", "x"], 3, "nothing is paused"),
        (["reshard", "1", "--reason", "x"], 3, "already has 1 shard"),
        (["reshard", "3", "--reason", "x"], 2, "--yes"),
        (["reshard", "100", "--reason", "x"], 2, "is not an integer from 1 to 99"),
        (["reconcile", "--reason", "x"], 3, "no shard waits because Kafka went back"),
        (["reconcile", "--reason", "x", "--shard", "0", "--dry-run"], 0, "of 0 rows marked sent"),
        (["reconcile", "--reason", "x", "--shard", "0"], 2, "--yes"),
        (["reconcile", "--reason", "x", "--since", "2h", "--accept-duplicates"], 2, "give only one of"),
        (["reconcile", "--reason", "x", "--accept-loss", "--accept-duplicates"], 2, "give only one of"),
        (["reconcile", "--reason", "x", "--since", "2h", "--yes"], 3, "no shard waits"),
        (["reconcile", "--reason", "x", "--since", "2999-01-01"], 2, "in the future"),
        (
            ["reconcile", "--reason", "x", "--since", "2h", "--shard", "0", "--shard", "7", "--yes"],
            3,
            "no such shard: 7",
        ),
        (["reconcile", "--reason", "x", "--since", "1900-01-01", "--shard", "0", "--dry-run"], 0, "of 0 records"),
    ],
)
def test_a_refused_command_changes_nothing(
    deployment: Deployment, arguments: list[str], code: int, message: str
) -> None:
    """The exit code and the message say why."""
    ended = command(deployment.environ, *arguments)
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert deployment.query("SELECT count(*) FROM outbox_audit") == [(0,)]


def test_status_can_be_watched_until_ctrl_c(deployment: Deployment, tmp_path: Path) -> None:
    """It prints again and again, and ends cleanly."""
    deployment.record(new_rows(3))
    command = [sys.executable, "-m", "relay", "status", "--json", "--watch", "0.2"]
    watching = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **deployment.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = watching.stdout
    assert lines is not None
    try:
        assert json.loads(lines.readline())["pending"] == 3
        deployment.record(new_rows(2))
        wait_until(lambda: json.loads(lines.readline())["pending"] == 5, "the new rows are printed")
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
        assert watching.returncode == 0, errors
        assert errors == ""
    finally:
        watching.kill()


def test_resharding_under_load_keeps_every_row(new_deployment: NewDeployment) -> None:
    """Two shards become 5, then 3, then 6; each row is sent once and in order. Refused while relays are not paused."""
    deployment = new_deployment(shards=2, RELAY_BATCH_SIZE="50")
    ids = deployment.record(new_rows(300, interactions=30))
    deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [2], "it owns both shards")
    refused = command(deployment.environ, "reshard", "5", "--reason", "grow", "--yes")
    assert refused.returncode == 1, refused.stderr
    assert "pause them first" in refused.stderr
    for shards in (5, 3, 6):
        pause_shards(deployment.engine, None, None, CONTEXT)
        ids += deployment.record(new_rows(100, interactions=30))
        done = command(deployment.environ, "reshard", str(shards), "--reason", "size", "--yes")
        assert done.returncode == 0, done.stderr
        assert f" to {shards}, moved" in done.stdout
        ids += deployment.record(new_rows(100, interactions=30))
        resume_shards(deployment.engine, None, CONTEXT)
        deployment.wait_drained()
    wait_until(lambda: list(owners(deployment).values()) == [6], "the running relay owns every new shard")
    deployment.check_exactly_once(ids)


def test_resharding_marks_what_a_dead_relay_committed(new_deployment: NewDeployment) -> None:
    """Rows that were committed under an old shard but not marked are not sent again under a new one."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="3")
    ids = deployment.record(new_rows(200, interactions=30))
    dying = deployment.relay(kill_at="committed", RELAY_BATCH_SIZE="50")
    assert dying.wait() == -signal.SIGKILL
    pause_shards(deployment.engine, None, None, CONTEXT)
    planned = command(deployment.environ, "reshard", "5", "--reason", "size", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "of 200 unsent rows move to another shard" in planned.stderr
    done = command(deployment.environ, "reshard", "5", "--reason", "size", "--yes")
    assert done.returncode == 0, done.stderr
    assert deployment.query("SELECT count(*) FROM outbox_rows WHERE state = 'sent'") != [(0,)]
    resume_shards(deployment.engine, None, CONTEXT)
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
