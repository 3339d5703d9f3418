"""Several relays on one outbox: they share its shards, hand over, take over, and pause."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from outbox.leases import Leases
from outbox.models import AuditContext, RowFilter
from outbox.operators.pause import pause_shards, resume_shards
from testkit.command_line import command, expect
from testkit.deployment import Deployment, NewDeployment
from testkit.relay_process import RelayProcess
from testkit.rows import new_rows
from testkit.waiting import DEADLINE_SECONDS, wait_until

ORDER = AuditContext("ann", "drill", RowFilter())
HANDOVER_SECONDS = 3.0
"""After SIGTERM of the other; a busy machine counts in."""


def owners(deployment: Deployment) -> Counter[str]:
    """How many shards each relay holds."""
    return Counter(s.owner for s in deployment.store.status() if s.owner and s.lease_remaining_ms > 0)


def elsewhere(deployment: Deployment, folder: str, **environ: str) -> RelayProcess:
    """A relay as on another host: its lock file is not seen, so that only its lease tells of it."""
    place = deployment.folder / folder
    place.mkdir(exist_ok=True)
    return deployment.relay(None, 1, TMPDIR=str(place), **environ)


def slack() -> float:
    """What a busy machine may add to a bound: a tenth of the tests' deadline. ``bench.takeover`` measures."""
    return DEADLINE_SECONDS / 10


def test_relays_share_evenly_and_hand_over_at_sigterm(new_deployment: NewDeployment) -> None:
    """A second one gets half, rows go on through every move, and after SIGTERM the other has all within seconds."""
    deployment = new_deployment(shards=4, RELAY_LEASE_SECONDS="600", RELAY_BATCH_SIZE="20")
    ids = deployment.record(new_rows(200, interactions=40))
    first = deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [4], "the first has all")
    second = deployment.relay()
    wait_until(lambda: sorted(owners(deployment).values()) == [2, 2], "each has its share")
    ids += deployment.record(new_rows(400, interactions=40))
    began = time.monotonic()
    first.signal(signal.SIGTERM)
    wait_until(lambda: list(owners(deployment).values()) == [4], "the second has all")
    assert time.monotonic() - began < HANDOVER_SECONDS + slack()
    ids += deployment.record(new_rows(100, interactions=40))
    deployment.wait_drained()
    assert first.wait(25) == 0
    assert not second.degraded()
    deployment.check_exactly_once(ids)


def test_a_dead_relays_shards_move_when_its_lease_has_run_out(new_deployment: NewDeployment) -> None:
    """Killed (-9) on another host: every shard is sent by the other within lease time and two seconds."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="3")
    first, second = elsewhere(deployment, "a"), elsewhere(deployment, "b")
    ids = deployment.record(new_rows(50))
    wait_until(lambda: sorted(owners(deployment).values()) == [1, 1], "each has its share")
    deployment.wait_drained()
    began = time.monotonic()
    first.kill()
    ids += deployment.record(new_rows(50, interactions=30))
    deployment.wait_drained()
    assert time.monotonic() - began < 3 + 2 + slack()
    assert list(owners(deployment).values()) == [2]
    assert not second.degraded()
    deployment.check_exactly_once(ids)


def test_a_restart_on_the_same_host_waits_for_no_lease(new_deployment: NewDeployment) -> None:
    """The lease of a process that is gone is taken at once, and its membership ends."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="600")
    first = deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [2], "it has all")
    first.kill()
    ids = deployment.record(new_rows(50))
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    wait_until(lambda: deployment.query("SELECT count(*) FROM outbox_relay") == [(1,)], "the dead one is forgotten")


def test_a_standby_owns_nothing_and_takes_over(new_deployment: NewDeployment) -> None:
    """One shard, two relays: the second one waits in good order, and has the shard after SIGTERM of the first."""
    deployment = new_deployment()
    first = deployment.relay()
    wait_until(lambda: len(owners(deployment)) == 1, "the first has it")
    second = deployment.relay()
    wait_until(lambda: deployment.query("SELECT count(*) FROM outbox_relay") == [(2,)], "the second is there")
    assert not second.degraded()
    (before,) = owners(deployment)
    assert first.stop() == 0
    ids = deployment.record(new_rows(20))
    deployment.wait_drained()
    (after,) = owners(deployment)
    assert before != after
    deployment.check_exactly_once(ids)


def test_a_relay_that_alone_cannot_reach_kafka_leaves_its_shards_to_others(new_deployment: NewDeployment) -> None:
    """It is there, its database is, but nothing moves: the other one gets its share until it is able again."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="3")
    leases = Leases(deployment.engine, "cut-off", 600)
    leases.heartbeat(healthy=True)
    deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [1], "the cut-off relay has a share")
    leases.heartbeat(healthy=False)
    wait_until(lambda: list(owners(deployment).values()) == [2], "the other has all")
    leases.heartbeat(healthy=True)
    wait_until(lambda: list(owners(deployment).values()) == [1], "the share is given back")


def test_a_paused_outbox_sends_nothing_and_says_why(new_deployment: NewDeployment) -> None:
    """Paused: the shards are free, rows wait, status, readiness and log name reason and actor; resumed: all goes on."""
    deployment = new_deployment(shards=2)
    ids = deployment.record(new_rows(20))
    running = deployment.relay()
    deployment.wait_drained()
    paused = command(deployment.environ, "pause", "--reason", "broker upgrade")
    assert (paused.returncode, paused.stdout) == (0, "paused until relay resume: shards 0, 1\n")
    wait_until(lambda: not owners(deployment), "the shards are given back")
    running.wait_degraded("shard 1", "paused by ann: broker upgrade")
    ids += deployment.record(new_rows(20))
    (first, second) = map(json.loads, command(deployment.environ, "status", "--json").stdout.splitlines())
    assert (first["owner"], first["paused_by"], first["paused_reason"]) == (None, "ann", "broker upgrade")
    assert first["pending"] + second["pending"] == 20
    assert "paused by ann: broker upgrade" in command(deployment.environ, "status", COLUMNS="200").stdout
    assert "paused by ann: broker upgrade" in running.log.read_text()
    assert command(deployment.environ, "resume", "--shard", "1", "--reason", "half").returncode == 0
    wait_until(lambda: list(owners(deployment).values()) == [1], "one shard goes on")
    assert command(deployment.environ, "resume", "--reason", "done").returncode == 0
    assert command(deployment.environ, "resume", "--reason", "done").returncode == 3
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded any more")
    deployment.check_exactly_once(ids)
    verbs = [json.loads(line)["verb"] for line in command(deployment.environ, "audit", "--json").stdout.splitlines()]
    assert verbs == ["pause every shard", "resume shard 1", "resume every shard"]


def test_a_pause_with_an_end_needs_no_resume(deployment: Deployment) -> None:
    """--for: the relay stops, says so, and goes on by itself."""
    running = deployment.relay()
    wait_until(lambda: owners(deployment), "it has the shard")
    paused = command(deployment.environ, "pause", "--for", "6s", "--reason", "drill")
    assert paused.stdout == "paused shard 0 for 6 s or until relay resume\n"
    wait_until(lambda: "paused by ann: drill" in running.log.read_text(), "it says so")
    ids = deployment.record(new_rows(20))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
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
def test_what_is_asked_wrongly_or_changes_nothing(
    deployment: Deployment, arguments: list[str], code: int, told: str
) -> None:
    """Exit code and a word of why; nothing is changed."""
    ended = command(deployment.environ, *arguments)
    expect(ended, code, stderr=told)
    assert deployment.query("SELECT count(*) FROM outbox_audit") == [(0,)]


def test_status_can_be_watched_until_ctrl_c(deployment: Deployment, tmp_path: Path) -> None:
    """It looks again and again, and ends cleanly."""
    import subprocess
    import sys

    from testkit import ROOT

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
        wait_until(lambda: json.loads(lines.readline())["pending"] == 5, "it looks again")
        watching.send_signal(signal.SIGINT)
        _, complaints = watching.communicate(timeout=20)
        assert (watching.returncode, complaints) == (0, "")
    finally:
        watching.kill()


def test_resharding_under_load_keeps_every_row(new_deployment: NewDeployment) -> None:
    """Refused while relays send; paused: 2 shards become 5, then 3, then 6; each row once and in order."""
    deployment = new_deployment(shards=2, RELAY_BATCH_SIZE="50")
    ids = deployment.record(new_rows(300, interactions=30))
    deployment.relay()
    wait_until(lambda: list(owners(deployment).values()) == [2], "it sends")
    refused = command(deployment.environ, "reshard", "5", "--reason", "grow", "--yes")
    expect(refused, 1, stderr="pause them first")
    for shards in (5, 3, 6):
        pause_shards(deployment.engine, None, None, ORDER)
        ids += deployment.record(new_rows(100, interactions=30))
        done = command(deployment.environ, "reshard", str(shards), "--reason", "size", "--yes")
        expect(done, 0, stdout=f" to {shards}, moved")
        ids += deployment.record(new_rows(100, interactions=30))
        resume_shards(deployment.engine, None, ORDER)
        deployment.wait_drained()
    wait_until(lambda: list(owners(deployment).values()) == [6], "the running relay has every new shard")
    deployment.check_exactly_once(ids)


def test_resharding_settles_what_a_dead_relay_had_committed(new_deployment: NewDeployment) -> None:
    """Rows committed under an old shard and not marked are found before they would be sent under a new one."""
    deployment = new_deployment(shards=2, RELAY_LEASE_SECONDS="3")
    ids = deployment.record(new_rows(200, interactions=30))
    dying = deployment.relay(kill_at="committed", RELAY_BATCH_SIZE="50")
    assert dying.wait() == -signal.SIGKILL
    pause_shards(deployment.engine, None, None, ORDER)
    planned = command(deployment.environ, "reshard", "5", "--reason", "size", "--dry-run")
    expect(planned, 0, stderr="of 200 unsent rows move to another shard")
    done = command(deployment.environ, "reshard", "5", "--reason", "size", "--yes")
    assert done.returncode == 0, done.stderr
    assert deployment.query("SELECT count(*) FROM outbox WHERE state = 'sent'") != [(0,)]
    resume_shards(deployment.engine, None, ORDER)
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
