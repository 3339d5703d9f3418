"""``python -m tests.faults.torture [--minutes M] [--seed N] [--services NAME…] [--relays N]``.

Run the product under load, on its own services, and inject faults. Afterwards every interaction that was
answered with 202 must be in the topic exactly once and in order. Prints a table for each kind of services. The exit
code is 1 if a row is lost, duplicated, out of order, left over or misplaced (its state is in no table, or in two), if
a relay misses a progress record (which counts as a duplicate), or if a partition gets no record within two minutes
after a fault.

A seed repeats the order and duration of the faults, but not the timing of threads and processes.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from time import monotonic, time

from outbox.models import INT64_MAX
from outbox.operators.placement import misplaced_ids
from testkit.load import LoadGenerator
from testkit.services import ExternalService, Registry, ServiceError
from testkit.waiting import wait_until
from tests.faults.cluster import cluster_services
from tests.faults.nemesis import label_of, pause, schedule
from tests.faults.outcome import FaultSummary, InjectedFault, Observations, check_outcome, markdown_table
from tests.faults.replicated import replicated_services
from tests.faults.secured import secured_services
from tests.faults.single_services import single_services
from tests.faults.system import PARTITIONS, RELAYS, Fault, SystemUnderTest

RESUME_SECONDS = 120.0
"""How long after a fault the next record may take to arrive."""
DRAIN_SECONDS = 180.0
SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS = 6, 5, 0.05
SERVICES: Mapping[str, Callable[[Registry | ExternalService, Path, int], AbstractContextManager[SystemUnderTest]]] = {
    "sqlite": partial(single_services, "sqlite"),
    "postgresql": partial(single_services, "postgresql"),
    "replicated": replicated_services,
    "cluster": cluster_services,
    "secured": secured_services,
}
"""What the product runs on: each takes a registry, a folder and a number of relays."""


def inject_faults(
    system: SystemUnderTest,
    seed: int,
    seconds: float,
    write: Callable[[str], object],
    phases: Iterable[tuple[Fault, ...]] | None = None,
) -> list[FaultSummary]:
    """Inject faults under load for a number of seconds, and check the outcome.

    Args:
        system: what runs.
        seed: of the schedule, and of what each fault chooses.
        seconds: no fault begins after that.
        write: takes a line about each phase.
        phases: the faults to inject; None for a schedule of all faults without end.
    """
    rng, injected = Random(seed), []
    load = LoadGenerator(lambda: system.web, SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS)
    deadline = monotonic() + seconds
    try:
        wait_until(
            lambda: len(system.consumer.arrivals) == PARTITIONS, "a record arrives in every partition", RESUME_SECONDS
        )
        for faults in phases or schedule(system.faults, rng):
            if monotonic() > deadline:
                break
            injected.append(inject(system, faults, rng))
            last = injected[-1]
            write(f"{last.recovered - last.began:6.1f} s  {', '.join(fault.name for fault in faults)}\n")
            if last.recovered == inf:
                break
            pause(rng.uniform(0, 1))
    finally:
        load.stop()
    return check_outcome(injected, observe(system, load))


def inject(system: SystemUnderTest, faults: tuple[Fault, ...], rng: Random) -> InjectedFault:
    """Inject one fault, or two at once, and wait until a record arrives again."""
    began = time()
    running = [system.fault_threads.submit(fault.inject, system, Random(rng.random())) for fault in faults]
    for each in running:
        each.result()
    ended, arrivals = time(), system.consumer.arrivals
    wait_until(
        lambda: all(times[-1] > ended for times in arrivals.values()) or time() > ended + RESUME_SECONDS,
        "a record arrives in every partition or the timeout has passed",
        2 * RESUME_SECONDS,
    )
    recovered = max(next((at for at in times if at > ended), inf) for times in arrivals.values())
    return InjectedFault(label_of(faults), began, recovered)


def observe(system: SystemUnderTest, load: LoadGenerator) -> Observations:
    """Wait until the outbox drains, or a timeout, and return what there is."""
    deployment, deadline = system.deployment, monotonic() + DRAIN_SECONDS
    wait_until(
        lambda: not deployment.pending() or monotonic() > deadline,
        "the outbox drains or the timeout has passed",
        2 * DRAIN_SECONDS,
    )
    keys = {row: bytes(key) for row, key in deployment.query("SELECT id, key FROM outbox")}
    accounted_for = deployment.query(
        "SELECT id FROM outbox_rows WHERE state IN ('parked', 'discarded') OR state = 'pending' AND shard IN"
        " (SELECT shard FROM outbox_shard WHERE condition IS NOT NULL)"
    )
    return Observations(
        accepted={each.outbox_id: each.at for each in load.accepted},
        not_stored=frozenset(each.outbox_id for each in load.accepted if keys.get(each.outbox_id) != each.key),
        committed={row: at_ms / 1000 for row, at_ms in deployment.query("SELECT id, received_at FROM outbox")},
        accounted_for=frozenset(row for (row,) in accounted_for),
        records=deployment.seen(),
        arrivals=system.consumer.arrivals,
        misplaced=frozenset(misplaced_ids(deployment.engine, INT64_MAX)),
        progress_missed=sum(relay.log.read_text().count('"action": "progress_lost"') for relay in deployment.relays),
    )


def main() -> int:
    """Run the torture test from the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long to inject faults")
    parser.add_argument("--seed", type=int, default=Random().randrange(10_000), help="seed of the schedule")
    parser.add_argument(
        "--services", nargs="+", choices=SERVICES, default=["postgresql"], help="what the product runs on"
    )
    parser.add_argument(
        "--relays", type=int, default=RELAYS, choices=range(1, 10), metavar="1..9", help="number of relays"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services are stopped
    exact = [_run(services, options) for services in options.services]
    return 0 if all(exact) else 1


def _run(services: str, options: argparse.Namespace) -> bool:
    """Inject faults on these services, print the outcome, and return whether it is exact."""
    folder, write = Path(tempfile.mkdtemp(prefix="outbox-torture-")), sys.stdout.write
    write(f"seed {options.seed}, {options.minutes:g} minutes, {services}; logs in {folder}\n")
    try:
        with ExitStack() as stack:
            registry: Registry | ExternalService | None = ExternalService.registry()
            if registry is None:
                registry = Registry(folder / "registry")
                stack.callback(registry.stop)
                registry.start()
            system = stack.enter_context(SERVICES[services](registry, folder, options.relays))
            summaries = inject_faults(system, options.seed, options.minutes * 60, write)
    except ServiceError as error:
        write(f"{error}\n")
        return False
    write(f"\n{markdown_table(summaries)}")
    exact = all(each.exact for each in summaries)
    write(
        "exact\n" if exact else f"NOT exact: see the logs in {folder}; repeat the schedule with --seed {options.seed}\n"
    )
    return exact


if __name__ == "__main__":
    sys.exit(main())
