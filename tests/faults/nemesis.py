"""Faults that are inflicted on a running product, each on its own and two at a time, by a seeded schedule."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random
from typing import NamedTuple

import psutil

from testkit.proxied_services import restart_service
from testkit.proxy import BOTH_DIRECTIONS, Direction, Proxy
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until
from tests.faults.deployment import LEASE_SECONDS, Stage

PARTLY_OPEN = (BOTH_DIRECTIONS, frozenset({Direction.TO_SERVICE}), frozenset({Direction.FROM_SERVICE}))
HOLD_SECONDS = 5.0
"""How long a commit is waited for before a fault at a commit is given up."""
OPEN_STATES = ("Ongoing", "PrepareCommit", "PrepareAbort")
"""Of a transaction whose markers are not all written."""


class Fault(NamedTuple):
    """One way to do harm; when it returns, everything is up again."""

    name: str
    subject: str
    """What it happens to: two faults at the same time happen to different things."""
    inflict: Callable[[Stage, Random], None]


def pause(seconds: float) -> None:
    """Let time pass: how long a fault lasts is a part of it."""
    threading.Event().wait(seconds)


# Processes -----------------------------------------------------------------------------------------


def kill_web(stage: Stage, chance: Random) -> None:
    """Kill -9 of master and workers, in the middle of requests."""
    stage.web.kill()
    pause(chance.uniform(0, 1))
    stage.start_web()


def freeze_web(stage: Stage, chance: Random) -> None:
    """SIGSTOP of master and workers."""
    master = psutil.Process(stage.web.process.pid)
    processes = [master, *master.children()]
    with stopped(processes):
        pause(chance.uniform(1, LEASE_SECONDS + 2))


def kill_relay(stage: Stage, chance: Random) -> None:
    """Kill -9 of one relay."""
    place = chance.randrange(len(stage.relays))
    stage.relays[place].kill()
    pause(chance.uniform(0, 1))
    stage.start_relay(place)


def kill_relays(stage: Stage, chance: Random) -> None:
    """Kill -9 of every relay."""
    for relay in stage.relays:
        relay.kill()
    pause(chance.uniform(0, 1))
    for place in range(len(stage.relays)):
        stage.start_relay(place)


def freeze_relay(stage: Stage, chance: Random) -> None:
    """SIGSTOP of one relay, past its lease, and now and then past its transaction's time-out."""
    relay = chance.choice(stage.relays)
    with stopped([process_of(relay)]):
        pause(LEASE_SECONDS + chance.uniform(0.5, 4))


def process_of(relay: RelayProcess) -> psutil.Process:
    """As psutil sees it."""
    return psutil.Process(relay.pid)


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end of the block to those that are still there."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)


# Links ---------------------------------------------------------------------------------------------


def cut(which: Callable[[Stage], Proxy]) -> Callable[[Stage, Random], None]:
    """Reset every connection; refuse new ones for a while."""
    return lambda stage, chance: during(which(stage).down(), chance.uniform(0, 4))


def delay(which: Callable[[Stage], Proxy]) -> Callable[[Stage, Random], None]:
    """Whatever is sent waits."""
    return lambda stage, chance: during(which(stage).delayed(chance.uniform(0.05, 0.4)), chance.uniform(2, 5))


def half_open(which: Callable[[Stage], Proxy]) -> Callable[[Stage, Random], None]:
    """Connections swallow one way, or both, and never say so."""
    return lambda stage, chance: during(which(stage).half_open(chance.choice(PARTLY_OPEN)), chance.uniform(0.5, 4))


def during(fault: AbstractContextManager[None], seconds: float) -> None:
    """The fault lasts so long."""
    with fault:
        pause(seconds)


def cut_at_commit(edge: Direction) -> Callable[[Stage, Random], None]:
    """The link goes down exactly at a commit: its request is lost, or its answer."""

    def inflict(stage: Stage, chance: Random) -> None:
        proxy = stage.kafka.proxy
        hold = proxy.hold_commit(edge)
        if hold.reached.wait(HOLD_SECONDS):
            with proxy.down():
                hold.cut()
                pause(chance.uniform(0, 4))
        proxy.pending_hold = None
        hold.cut()

    return inflict


# Services ------------------------------------------------------------------------------------------


def relays_away(stage: Stage) -> None:
    """Kill every relay, and let the broker end what they leave open.

    A lone broker that starts again with a transaction to be ended may leave it open for ever: docs/delivery.md
    tells why. So none is open when it goes, and the relays come back while it is away.
    """
    prefix = stage.deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"].encode()

    def nothing_is_open() -> bool:
        for relay in stage.relays:  # another fault may have started one meanwhile
            relay.kill()
        return prefix not in stage.kafka.transactions(*OPEN_STATES)

    wait_until(nothing_is_open, "no transaction is open")


def stop_broker(stage: Stage, chance: Random) -> None:
    """SIGTERM, and a start."""
    relays_away(stage)
    stage.kafka.process.stop()
    _come_back(stage, chance)


def _come_back(stage: Stage, chance: Random) -> None:
    for place in range(len(stage.relays)):
        stage.start_relay(place)
    pause(chance.uniform(0, 1))
    restart_service(stage.kafka.start)


def kill_broker(stage: Stage, chance: Random) -> None:
    """Kill -9, and a start."""
    relays_away(stage)
    stage.kafka.process.kill()
    _come_back(stage, chance)


def freeze_broker(stage: Stage, chance: Random) -> None:
    """SIGSTOP of the broker."""
    with stopped([psutil.Process(stage.kafka.process.pid)]):
        pause(chance.uniform(1, 6))


def stop_database(stage: Stage, chance: Random) -> None:
    """SIGINT, which ends sessions and shuts down in order, and a start."""
    stage.database.process.stop(signal.SIGINT)
    pause(chance.uniform(0, 1))
    restart_service(stage.database.start)


def kill_database(stage: Stage, chance: Random) -> None:
    """Kill -9 of every process of the server, and a start."""
    stage.database.kill()
    pause(chance.uniform(0, 1))
    restart_service(stage.database.start)


def freeze_database(stage: Stage, chance: Random) -> None:
    """SIGSTOP of every process of the server."""
    postmaster = psutil.Process(stage.database.process.pid)
    with stopped([postmaster, *postmaster.children(recursive=True)]):
        pause(chance.uniform(1, 6))


def broker_link(stage: Stage) -> Proxy:
    """Between relays and broker."""
    return stage.kafka.proxy


def database_link(stage: Stage) -> Proxy:
    """Between web and relays, and the database."""
    return stage.database.proxy


FAULTS = (
    Fault("web killed (-9)", "web", kill_web),
    Fault("web frozen", "web", freeze_web),
    Fault("a relay killed (-9)", "relay", kill_relay),
    Fault("all relays killed (-9)", "relay", kill_relays),
    Fault("a relay frozen past its lease", "relay", freeze_relay),
    Fault("broker stopped", "broker", stop_broker),
    Fault("broker killed (-9)", "broker", kill_broker),
    Fault("broker frozen", "broker", freeze_broker),
    Fault("broker link cut", "broker link", cut(broker_link)),
    Fault("broker link slow", "broker link", delay(broker_link)),
    Fault("broker link half-open", "broker link", half_open(broker_link)),
    Fault("cut before a commit reaches the broker", "broker link", cut_at_commit(Direction.TO_SERVICE)),
    Fault("cut before a commit's answer is back", "broker link", cut_at_commit(Direction.FROM_SERVICE)),
)
DATABASE_FAULTS = (
    Fault("database stopped", "database", stop_database),
    Fault("database killed (-9)", "database", kill_database),
    Fault("database frozen", "database", freeze_database),
    Fault("database link cut", "database link", cut(database_link)),
    Fault("database link slow", "database link", delay(database_link)),
    Fault("database link half-open", "database link", half_open(database_link)),
)
"""SQLite is a file: what can happen to it, happens to the processes that use it."""
MIXED = "two of these at the same time"


def faults_of(kind: str) -> tuple[Fault, ...]:
    """Every fault that there is with a kind of database."""
    return FAULTS + (DATABASE_FAULTS if kind == "postgresql" else ())


def schedule(faults: tuple[Fault, ...], chance: Random) -> Iterator[tuple[Fault, ...]]:
    """Without end: each fault once on its own, in any order, and after every third of them two at the same time."""
    while True:
        for number, fault in enumerate(chance.sample(faults, len(faults)), 1):
            yield (fault,)
            if number % 3 == 0:
                first = chance.choice(faults)
                yield first, chance.choice([other for other in faults if other.subject != first.subject])


def name_of(faults: tuple[Fault, ...]) -> str:
    """Under which it counts."""
    return faults[0].name if len(faults) == 1 else MIXED
