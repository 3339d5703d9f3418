"""Faults injected into a running system, one or two at a time, by a seeded schedule."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random
from time import sleep
from typing import NamedTuple

import psutil

from testkit.proxied_services import restart_service
from testkit.proxy import BOTH_DIRECTIONS, Direction, Proxy
from testkit.waiting import wait_until
from tests.faults.system import LEASE_SECONDS, SystemUnderTest

PARTLY_OPEN = (BOTH_DIRECTIONS, frozenset({Direction.TO_SERVICE}), frozenset({Direction.FROM_SERVICE}))
HOLD_SECONDS = 5.0
"""How long a fault at a commit waits for a commit before it is skipped."""
OPEN_STATES = ("Ongoing", "PrepareCommit", "PrepareAbort")
"""States of a transaction whose markers are not all written."""


class Fault(NamedTuple):
    """A fault to inject."""

    name: str
    subject: str
    """What it affects; two simultaneous faults affect different subjects."""
    inject: Callable[[SystemUnderTest, Random], None]
    """Injects the fault; on return everything runs again."""


def pause(seconds: float) -> None:
    """Wait for the duration of a fault."""
    sleep(seconds)


# Processes -----------------------------------------------------------------------------------------


def kill_web(system: SystemUnderTest, rng: Random) -> None:
    """Kill (-9) the web master and workers, and restart them."""
    system.web.kill()
    pause(rng.uniform(0, 1))
    system.start_web()


def freeze_web(system: SystemUnderTest, rng: Random) -> None:
    """Stop (SIGSTOP) the web master and workers for a while."""
    master = psutil.Process(system.web.process.pid)
    processes = [master, *master.children()]
    with stopped(processes):
        pause(rng.uniform(1, LEASE_SECONDS + 2))


def kill_relay(system: SystemUnderTest, rng: Random) -> None:
    """Kill (-9) one relay, and restart it."""
    index = rng.randrange(len(system.relays))
    system.relays[index].kill()
    pause(rng.uniform(0, 1))
    system.start_relay(index)


def kill_relays(system: SystemUnderTest, rng: Random) -> None:
    """Kill (-9) every relay, and restart them."""
    for relay in system.relays:
        relay.kill()
    pause(rng.uniform(0, 1))
    for index in range(len(system.relays)):
        system.start_relay(index)


def freeze_relay(system: SystemUnderTest, rng: Random) -> None:
    """Stop (SIGSTOP) one relay past its lease, and sometimes past its transaction timeout."""
    relay = rng.choice(system.relays)
    with stopped([psutil.Process(relay.pid)]):
        pause(LEASE_SECONDS + rng.uniform(0.5, 4))


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes (SIGSTOP) within the block, then resume (SIGCONT) those still running."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)


# Links ---------------------------------------------------------------------------------------------


def cut(link: Callable[[SystemUnderTest], Proxy]) -> Callable[[SystemUnderTest, Random], None]:
    """Reset every connection of a link, and refuse new ones for a while."""
    return lambda system, rng: apply_for(link(system).down(), rng.uniform(0, 4))


def delay(link: Callable[[SystemUnderTest], Proxy]) -> Callable[[SystemUnderTest, Random], None]:
    """Delay every message of a link for a while."""
    return lambda system, rng: apply_for(link(system).delayed(rng.uniform(0.05, 0.4)), rng.uniform(2, 5))


def half_open(link: Callable[[SystemUnderTest], Proxy]) -> Callable[[SystemUnderTest, Random], None]:
    """Discard what a link carries in one direction or both, without closing its connections."""
    return lambda system, rng: apply_for(link(system).half_open(rng.choice(PARTLY_OPEN)), rng.uniform(0.5, 4))


def apply_for(fault: AbstractContextManager[None], seconds: float) -> None:
    """Apply a fault for a number of seconds."""
    with fault:
        pause(seconds)


def cut_at_commit(direction: Direction) -> Callable[[SystemUnderTest, Random], None]:
    """Cut the broker link exactly at a commit, so that its request or its response is lost."""

    def inject(system: SystemUnderTest, rng: Random) -> None:
        proxy = system.kafka.proxy
        hold = proxy.hold_commit(direction)
        if hold.reached.wait(HOLD_SECONDS):
            with proxy.down():
                hold.drop()
                pause(rng.uniform(0, 4))
        proxy.cancel_hold()
        hold.drop()

    return inject


# Services ------------------------------------------------------------------------------------------


def kill_relays_cleanly(system: SystemUnderTest) -> None:
    """Kill every relay, and wait until the broker has ended their open transactions.

    A single broker that restarts with an open transaction may leave it open indefinitely (see docs/delivery.md). So
    none is open when the broker stops, and the relays restart while it is down.
    """
    prefix = system.deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"].encode()

    def no_transaction_is_open() -> bool:
        for relay in system.relays:  # a simultaneous fault may have restarted one
            relay.kill()
        return prefix not in system.kafka.transactions(*OPEN_STATES)

    wait_until(no_transaction_is_open, "no transaction is open")


def stop_broker(system: SystemUnderTest, rng: Random) -> None:
    """Stop the broker (SIGTERM), and restart it."""
    kill_relays_cleanly(system)
    system.kafka.process.stop()
    _restart_broker(system, rng)


def _restart_broker(system: SystemUnderTest, rng: Random) -> None:
    for index in range(len(system.relays)):
        system.start_relay(index)
    pause(rng.uniform(0, 1))
    restart_service(system.kafka.start)


def kill_broker(system: SystemUnderTest, rng: Random) -> None:
    """Kill the broker (-9), and restart it."""
    kill_relays_cleanly(system)
    system.kafka.process.kill()
    _restart_broker(system, rng)


def freeze_broker(system: SystemUnderTest, rng: Random) -> None:
    """Stop the broker (SIGSTOP) for a while."""
    with stopped([psutil.Process(system.kafka.process.pid)]):
        pause(rng.uniform(1, 6))


def stop_database(system: SystemUnderTest, rng: Random) -> None:
    """Shut the database server down with SIGINT, which ends its sessions, and restart it."""
    system.database.process.stop(signal.SIGINT)
    pause(rng.uniform(0, 1))
    restart_service(system.database.start)


def kill_database(system: SystemUnderTest, rng: Random) -> None:
    """Kill (-9) every process of the database server, and restart it."""
    system.database.kill()
    pause(rng.uniform(0, 1))
    restart_service(system.database.start)


def freeze_database(system: SystemUnderTest, rng: Random) -> None:
    """Stop (SIGSTOP) every process of the database server for a while."""
    postmaster = psutil.Process(system.database.process.pid)
    with stopped([postmaster, *postmaster.children(recursive=True)]):
        pause(rng.uniform(1, 6))


def broker_link(system: SystemUnderTest) -> Proxy:
    """Return the proxy between the relays and the broker."""
    return system.kafka.proxy


def database_link(system: SystemUnderTest) -> Proxy:
    """Return the proxy between the product and the database."""
    return system.database.proxy


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
"""Not for SQLite: it is a file, and only the processes that use it can fail."""
MIXED = "two of these at the same time"


def faults_of(kind: str) -> tuple[Fault, ...]:
    """Return every fault that applies to a kind of database."""
    return FAULTS + (DATABASE_FAULTS if kind == "postgresql" else ())


def schedule(faults: tuple[Fault, ...], rng: Random) -> Iterator[tuple[Fault, ...]]:
    """Yield faults without end: each once per round in random order, and two at once after every third."""
    while True:
        for number, fault in enumerate(rng.sample(faults, len(faults)), 1):
            yield (fault,)
            if number % 3 == 0:
                first = rng.choice(faults)
                yield first, rng.choice([other for other in faults if other.subject != first.subject])


def label_of(faults: tuple[Fault, ...]) -> str:
    """Return the row of the table in which these faults are counted."""
    return faults[0].name if len(faults) == 1 else MIXED
