"""``python -m bench.takeover [--rounds N] [--lease SECONDS] [--shards N]``: time a takeover.

Two relays share an outbox. One of them ends, and at that moment a row for each shard is committed. The time until
all rows are in the topic and marked is measured. Services that environment variables name are used, as in the
tests; the others are started.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench.environment import Environment, open_environment
from outbox.models import shard_of
from testkit.deployment import Deployment
from testkit.relay_process import RelayProcess
from testkit.rows import new_row
from testkit.waiting import wait_until


def main() -> None:
    """Measure each event on both databases and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.takeover")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each event (default: %(default)s)")
    parser.add_argument("--lease", type=float, default=10.0, help="RELAY_LEASE_SECONDS (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=4, help="number of shards (default: %(default)s)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-takeover-"))
    sys.stdout.write(f"lease {options.lease:g} s, {options.shards} shards, {options.rounds} rounds; seconds\n")
    sys.stdout.write("| one of two relays | database | min | median | max |\n|---|---|---|---|---|\n")
    with open_environment(folder) as environment:
        for database in ("sqlite", "postgresql"):
            for name, event in EVENTS.items():
                seconds = [_round(environment, database, options, event) for _ in range(options.rounds)]
                cells = [f"{value:.2f}" for value in (min(seconds), median(seconds), max(seconds))]
                sys.stdout.write(f"| {name} | {database} | {' | '.join(cells)} |\n")
                sys.stdout.flush()


def _round(
    environment: Environment,
    database: str,
    options: argparse.Namespace,
    event: Callable[[Deployment, RelayProcess], object],
) -> float:
    deployment = environment.deployment(database, options.shards, RELAY_LEASE_SECONDS=str(options.lease))
    interactions = [_interaction_of(shard, options.shards) for shard in range(options.shards)]
    try:
        relay, _ = _start_relay(deployment, 0), _start_relay(deployment, 1)
        wait_until(lambda: len({s.owner for s in deployment.store.status() if s.owner}) == 2, "both share the shards")
        deployment.record([new_row(interaction) for interaction in interactions])
        deployment.wait_drained()
        began = time.monotonic()
        event(deployment, relay)
        deployment.record([new_row(interaction) for interaction in interactions])
        deployment.wait_drained()
        return time.monotonic() - began
    finally:
        deployment.close()


def _interaction_of(shard: int, shards: int) -> str:
    return next(name for number in range(10_000) if shard_of(name := f"i-{number}", shards) == shard)


def _start_relay(deployment: Deployment, host: int) -> RelayProcess:
    """Start a relay as if on a separate host, where relays do not see each other's lock files."""
    folder = deployment.folder / f"host-{host}"
    folder.mkdir(exist_ok=True)
    return deployment.relay(TMPDIR=str(folder))


def _restart(deployment: Deployment, relay: RelayProcess) -> None:
    relay.kill()
    _start_relay(deployment, 0)


EVENTS: dict[str, Callable[[Deployment, RelayProcess], object]] = {
    "ends on SIGTERM": lambda _, relay: relay.signal(signal.SIGTERM),
    "is killed (-9) and restarts on its host": _restart,
    "is killed (-9) and does not restart": lambda _, relay: relay.kill(),
}

if __name__ == "__main__":
    main()
