"""``python -m tests.faults.kills [--kills N] [--services NAME] [--seed N] [--table]``.

Kill processes of the product under load (-9), on its own services: relays and web at random moments and at every step.
After each hundred kills the load pauses, the outbox drains, and every interaction that was answered with 202 must be in
the topic exactly once and in order. The exit code is 1 if it is not, or if anything else is wrong.

A run that is interrupted continues with the next hundred if it is given the same seed.
"""

import argparse
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.services import Kafka, Postgres, Registry, ServiceError
from tests.faults.kills.hundred import run_kills
from tests.faults.kills.kinds import schedule
from tests.faults.kills.results import HUNDRED, Results
from tests.faults.single_services import SHARDS, with_driver


@contextmanager
def running_services(database: str, folder: Path) -> Iterator[Callable[[], Deployment]]:
    """Start the services for the block; yields a function that deploys the product on a fresh outbox."""
    with ExitStack() as stack:
        services: list[Kafka | Registry | Postgres] = [kafka := Kafka(folder / "kafka")]
        services += [registry := Registry(folder / "registry")]
        if database == "postgresql":
            services += [postgres := Postgres(folder / "postgres")]
        for service in services:
            stack.callback(service.stop)
            service.start()

        def deploy() -> Deployment:
            name = f"kills_{uuid.uuid4().hex[:8]}"
            url = f"sqlite:///{folder}/{name}.db"
            if database == "postgresql":
                url = with_driver(postgres.create_database(name))
            migrate(url, SHARDS[database])
            return Deployment(url, settings_for(kafka, registry, url), kafka.client_config, folder)

        yield deploy


def main() -> int:
    """Run the kills from the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="how many in all, in hundreds")
    parser.add_argument("--seed", type=int, default=Random().randrange(10_000), help="seed of the run")
    parser.add_argument("--services", choices=SHARDS, default="sqlite", help="what the product runs on")
    parser.add_argument("--table", action="store_true", help="only print the tables of what was run")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services are stopped
    results = Results(options.services, options.seed)
    try:
        if not options.table:
            run(results, options.kills // HUNDRED)
    except (ServiceError, AssertionError) as error:
        sys.stdout.write(f"{error}\nthe hundred is not counted; repeat it with --seed {options.seed}\n")
        return 1
    finally:
        sys.stdout.write(f"\n{results.tables()}")
    return 0 if results.exact else 1


def run(results: Results, hundreds: int) -> None:
    """Run the hundreds that are missing."""
    write, folder = sys.stdout.write, Path(tempfile.mkdtemp(prefix="outbox-kills-"))
    write(f"seed {results.seed}, {results.services}; logs in {folder}, results in {results.path}\n")
    if len(results.hundreds) >= hundreds:
        return
    with running_services(results.services, folder) as deploy:
        while len(results.hundreds) < hundreds:
            seed = results.next_seed()
            write(f"hundred {len(results.hundreds) + 1}, seed {seed}\n")
            rng = Random(seed)
            results.add(run_kills(deploy(), schedule(rng), rng, write))
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
