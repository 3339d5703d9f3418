"""``python -m tests.faults.torture [--minutes M] [--seed N] [--database sqlite|postgresql] [--relays N]``.

Run the product under load, on its own services, and inject faults. Afterwards every interaction that was
answered with 202 must be in the topic exactly once and in order. Prints a table. The exit code is 1 if a row
is lost, duplicated, out of order, left over or misplaced (its state is in no table, or in two), or if no record
arrives within two minutes after a fault.

A seed repeats the order and duration of the faults, but not the timing of threads and processes.
"""

import argparse
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path
from random import Random
from time import monotonic, time

from outbox.models import INT64_MAX
from outbox.operators.placement import misplaced_ids
from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.load import LoadGenerator
from testkit.proxied_services import ProxiedKafka, ProxiedPostgres
from testkit.services import ExternalService, Registry, ServiceError
from testkit.waiting import wait_until
from tests.faults.nemesis import Fault, faults_of, label_of, pause, schedule
from tests.faults.outcome import FaultSummary, InjectedFault, Observations, check_outcome, markdown_table
from tests.faults.system import RELAYS, SETTINGS, SystemUnderTest

RESUME_SECONDS = 120.0
"""How long after a fault the next record may take to arrive."""
DRAIN_SECONDS = 180.0
SHARDS = {"sqlite": 1, "postgresql": 4}
SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS = 6, 5, 0.05


@contextmanager
def running_system(
    kind: str, registry: Registry | ExternalService, folder: Path, relays: int = RELAYS
) -> Iterator[SystemUnderTest]:
    """Start the product and its services, with this kind of database, for the block."""
    with ExitStack() as stack:
        kafka = ProxiedKafka(folder / "kafka")
        stack.callback(kafka.stop)
        kafka.start()
        postgres = None
        url = f"sqlite:///{folder}/outbox.db"
        if kind == "postgresql":
            postgres = ProxiedPostgres(folder / "postgres")
            stack.callback(postgres.stop)
            postgres.start()
            url = postgres.create_database(f"torture_{uuid.uuid4().hex[:8]}")
        migrate(url, SHARDS[kind])
        url = url.replace("postgresql://", "postgresql+psycopg://")
        settings = {**settings_for(kafka, registry, url), "KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers, **SETTINGS}
        system = SystemUnderTest(Deployment(url, settings, kafka.client_config, folder), kafka, postgres, relays)
        stack.callback(system.close)
        yield system


def inject_faults(
    system: SystemUnderTest, kind: str, seed: int, seconds: float, write: Callable[[str], object]
) -> list[FaultSummary]:
    """Inject faults under load for a number of seconds, and check the outcome."""
    rng, injected = Random(seed), []
    load = LoadGenerator(lambda: system.web, SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS)
    deadline = monotonic() + seconds
    try:
        wait_until(lambda: system.consumer.arrivals, "the first records arrive", RESUME_SECONDS)
        for faults in schedule(faults_of(kind), rng):
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
        lambda: arrivals[-1] > ended or time() > ended + RESUME_SECONDS,
        "a record arrives or the timeout has passed",
        2 * RESUME_SECONDS,
    )
    return InjectedFault(label_of(faults), began, next((at for at in arrivals if at > ended), inf))


def observe(system: SystemUnderTest, load: LoadGenerator) -> Observations:
    """Wait until the outbox drains, or a timeout, and return what there is."""
    deployment, deadline = system.deployment, monotonic() + DRAIN_SECONDS
    wait_until(
        lambda: not deployment.pending() or monotonic() > deadline,
        "the outbox drains or the timeout has passed",
        2 * DRAIN_SECONDS,
    )
    accounted_for = deployment.query(
        "SELECT id FROM outbox_rows WHERE state IN ('parked', 'discarded') OR state = 'pending' AND shard IN"
        " (SELECT shard FROM outbox_shard WHERE condition IS NOT NULL)"
    )
    return Observations(
        accepted={each.outbox_id: each.at for each in load.accepted},
        committed={row: at_ms / 1000 for row, at_ms in deployment.query("SELECT id, received_at FROM outbox")},
        accounted_for=frozenset(row for (row,) in accounted_for),
        records=deployment.seen(),
        arrivals=system.consumer.arrivals,
        misplaced=frozenset(misplaced_ids(deployment.engine, INT64_MAX)),
    )


def main() -> int:
    """Run the torture test from the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long to inject faults")
    parser.add_argument("--seed", type=int, default=Random().randrange(10_000), help="seed of the schedule")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql", help="kind of database")
    parser.add_argument(
        "--relays", type=int, default=RELAYS, choices=range(1, 10), metavar="1..9", help="number of relays"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-torture-"))
    write = sys.stdout.write
    write(f"seed {options.seed}, {options.minutes:g} minutes, {options.database}; logs in {folder}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services are stopped
    try:
        summaries = _run(options, folder, write)
    except ServiceError as error:
        write(f"{error}\n")
        return 1
    write(f"\n{markdown_table(summaries)}")
    exact = all(each.exact for each in summaries)
    write(
        "exact\n" if exact else f"NOT exact: see the logs in {folder}; repeat the schedule with --seed {options.seed}\n"
    )
    return 0 if exact else 1


def _run(options: argparse.Namespace, folder: Path, write: Callable[[str], object]) -> list[FaultSummary]:
    with ExitStack() as stack:
        registry: Registry | ExternalService | None = ExternalService.registry()
        if registry is None:
            registry = Registry(folder / "registry")
            stack.callback(registry.stop)
            registry.start()
        system = stack.enter_context(running_system(options.database, registry, folder, options.relays))
        return inject_faults(system, options.database, options.seed, options.minutes * 60, write)


if __name__ == "__main__":
    sys.exit(main())
