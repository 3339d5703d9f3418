"""Faults of the product's processes and of links, and the seeded schedule that injects them, one or two at a time."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from random import Random
from time import sleep

import psutil

from testkit.proxy import BOTH_DIRECTIONS, Direction, Proxy
from tests.faults.system import LEASE_SECONDS, Fault, Inject, SystemUnderTest

PARTLY_OPEN = (BOTH_DIRECTIONS, frozenset({Direction.TO_SERVICE}), frozenset({Direction.FROM_SERVICE}))


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


def cut(link: Proxy) -> Inject:
    """Reset every connection of a link, and refuse new ones for a while."""
    return lambda _, rng: apply_for(link.down(), rng.uniform(0, 4))


def delay(link: Proxy) -> Inject:
    """Delay every message of a link for a while."""
    return lambda _, rng: apply_for(link.delayed(rng.uniform(0.05, 0.4)), rng.uniform(2, 5))


def half_open(link: Proxy) -> Inject:
    """Discard what a link carries in one direction or both, without closing its connections."""
    return lambda _, rng: apply_for(link.half_open(rng.choice(PARTLY_OPEN)), rng.uniform(0.5, 4))


def apply_for(fault: AbstractContextManager[None], seconds: float) -> None:
    """Apply a fault for a number of seconds."""
    with fault:
        pause(seconds)


PROCESS_FAULTS = (
    Fault("web killed (-9)", "web", kill_web),
    Fault("web frozen", "web", freeze_web),
    Fault("a relay killed (-9)", "relay", kill_relay),
    Fault("all relays killed (-9)", "relay", kill_relays),
    Fault("a relay frozen past its lease", "relay", freeze_relay),
)
MIXED = "two of these at the same time"


def schedule(faults: Sequence[Fault], rng: Random) -> Iterator[tuple[Fault, ...]]:
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
