"""``python -m tests.faults.torture [--minutes M] [--seed N] [--database sqlite|postgresql] [--relays N]``.

The product under load, on services of its own, while faults are inflicted on it; then the count: every
interaction that was answered with 202 has to be in the topic exactly once and in order. Prints a table;
exit code 1 if anything differs, or if after a fault nothing comes through for two minutes. A seed repeats
which faults come in which order and for how long, not how the threads of a dozen processes meet.
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

from testkit.databases import migrate
from testkit.load import LoadGenerator
from testkit.proxied_services import ProxiedKafka, ProxiedPostgres
from testkit.services import ExternalService, Registry, ServiceError
from testkit.waiting import wait_until
from tests.faults.conftest import behind_proxy
from tests.faults.deployment import RELAYS, SETTINGS, Stage
from tests.faults.nemesis import Fault, faults_of, name_of, pause, schedule
from tests.faults.outcome import Evidence, Injected, Line, judge, table

RESUME_SECONDS = 120.0
"""How long after a fault a row may take to come through; it was never near that."""
DRAIN_SECONDS = 180.0
SHARDS = {"sqlite": 1, "postgresql": 4}
SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS = 6, 5, 0.05


@contextmanager
def staged(kind: str, registry: Registry | ExternalService, folder: Path, relays: int = RELAYS) -> Iterator[Stage]:
    """A stage with this kind of database; everything on it is ended with the block."""
    with ExitStack() as ending:
        kafka = ProxiedKafka(folder / "kafka")
        ending.callback(kafka.stop)
        kafka.start()
        postgres = None
        url = f"sqlite:///{folder}/outbox.db"
        if kind == "postgresql":
            postgres = ProxiedPostgres(folder / "postgres")
            ending.callback(postgres.stop)
            postgres.start()
            url = postgres.create_database(f"torture_{uuid.uuid4().hex[:8]}")
        migrate(url, SHARDS[kind])
        url = url.replace("postgresql://", "postgresql+psycopg://")
        stage = Stage(behind_proxy(url, kafka, registry, folder, SETTINGS), kafka, postgres, relays)
        ending.callback(stage.close)
        yield stage


def torment(stage: Stage, kind: str, seed: int, seconds: float, tell: Callable[[str], object]) -> list[Line]:
    """Inflict faults for so long, under load, and judge what came of it."""
    chance, injected = Random(seed), []
    load = LoadGenerator(lambda: stage.web, SENDERS, INTERACTIONS, SEND_PAUSE_SECONDS)
    deadline = monotonic() + seconds
    try:
        wait_until(lambda: stage.audience.arrivals, "the first rows come through", RESUME_SECONDS)
        for faults in schedule(faults_of(kind), chance):
            if monotonic() > deadline:
                break
            injected.append(inflict(stage, faults, chance))
            last = injected[-1]
            tell(f"{last.recovered - last.began:6.1f} s  {', '.join(fault.name for fault in faults)}\n")
            if last.recovered == inf:
                break
            pause(chance.uniform(0, 1))
    finally:
        load.stop()
    return judge(injected, gather(stage, load))


def inflict(stage: Stage, faults: tuple[Fault, ...], chance: Random) -> Injected:
    """One fault, or two at the same time, until rows come through again."""
    began = time()
    doing = [stage.threads.submit(fault.inflict, stage, Random(chance.random())) for fault in faults]
    for each in doing:
        each.result()
    over, arrivals = time(), stage.audience.arrivals
    wait_until(lambda: arrivals[-1] > over or time() > over + RESUME_SECONDS, "", 2 * RESUME_SECONDS)
    return Injected(name_of(faults), began, next((at for at in arrivals if at > over), inf))


def gather(stage: Stage, load: LoadGenerator) -> Evidence:
    """What is known once everything is in order again and nothing more comes through."""
    deployment, deadline = stage.deployment, monotonic() + DRAIN_SECONDS
    wait_until(lambda: not deployment.pending() or monotonic() > deadline, "", DRAIN_SECONDS * 2)
    in_sight = deployment.query(
        "SELECT id FROM outbox WHERE state IN ('parked', 'discarded') OR state = 'pending' AND shard IN"
        " (SELECT shard FROM outbox_shard WHERE condition IS NOT NULL)"
    )
    return Evidence(
        accepted={each.outbox_id: each.at for each in load.accepted},
        committed={row: at_ms / 1000 for row, at_ms in deployment.query("SELECT id, received_at FROM outbox")},
        in_sight=frozenset(row for (row,) in in_sight),
        seen=deployment.seen(),
        arrivals=stage.audience.arrivals,
    )


def main() -> int:
    """Run as the module's text tells."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=Random().randrange(10_000))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--relays", type=int, default=RELAYS, choices=range(1, 10), metavar="1..9")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-torture-"))
    tell = sys.stdout.write
    tell(f"seed {options.seed}, {options.minutes:g} minutes, {options.database}; logs in {folder}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or what was started here would stay
    try:
        lines = _run(options, folder, tell)
    except ServiceError as error:
        tell(f"{error}\n")
        return 1
    tell(f"\n{table(lines)}")
    exact = all(line.exact for line in lines)
    tell("exact\n" if exact else f"NOT exact: see the logs in {folder}; the same schedule: --seed {options.seed}\n")
    return 0 if exact else 1


def _run(options: argparse.Namespace, folder: Path, tell: Callable[[str], object]) -> list[Line]:
    with ExitStack() as ending:
        registry: Registry | ExternalService | None = ExternalService.registry()
        if registry is None:
            registry = Registry(folder / "registry")
            ending.callback(registry.stop)
            registry.start()
        stage = ending.enter_context(staged(options.database, registry, folder, options.relays))
        return torment(stage, options.database, options.seed, options.minutes * 60, tell)


if __name__ == "__main__":
    sys.exit(main())
