"""``python -m bench.takeover [--rounds N] [--lease SECONDS] [--shards N]``: how long rows wait when a relay goes.

Two relays share an outbox. One goes; at that moment a row for each shard is accepted, and the time is
taken until all are in the topic and marked. The services that the environment names are used, as in the
tests, or else started.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from bench.environment import Services, services
from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.relay_process import RelayProcess
from testkit.rows import new_row
from testkit.waiting import wait_until


def main() -> None:
    """Measure each way of going on both databases, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.takeover")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-takeover-"))
    sys.stdout.write(f"lease {options.lease:g} s, {options.shards} shards, {options.rounds} rounds; seconds\n")
    sys.stdout.write("| one of two relays | database | least | median | most |\n|---|---|---|---|---|\n")
    with services(folder) as found:
        for kind in ("sqlite", "postgresql"):
            for name, event in EVENTS.items():
                took = [_round(found, folder, kind, options, event) for _ in range(options.rounds)]
                told = " | ".join(f"{value:.2f}" for value in (min(took), statistics.median(took), max(took)))
                sys.stdout.write(f"| {name} | {kind} | {told} |\n")
                sys.stdout.flush()


def _round(
    found: Services,
    folder: Path,
    kind: str,
    options: argparse.Namespace,
    event: Callable[[Deployment, RelayProcess], None],
) -> float:
    kafka, registry, postgres = found
    name = f"takeover_{uuid.uuid4().hex[:8]}"
    url = f"sqlite:///{folder}/{name}.db" if kind == "sqlite" else postgres.create_database(name)
    url = url.replace("postgresql://", "postgresql+psycopg://")
    migrate(url, options.shards)
    environ = {**settings_for(kafka, registry, url), "RELAY_LEASE_SECONDS": str(options.lease)}
    deployment = Deployment(url, environ, {"bootstrap.servers": kafka.bootstrap_servers}, folder)
    rows = [new_row(_interaction(shard, options.shards)) for shard in range(options.shards)]
    try:
        relays = []
        for number in range(2):  # each as on a host of its own: the other does not see its lock file
            place = folder / f"host-{number}"
            place.mkdir(exist_ok=True)
            relays.append(deployment.relay(TMPDIR=str(place)))
        wait_until(lambda: len({s.owner for s in deployment.store.status() if s.owner}) == 2, "both share")
        deployment.record([new_row(row.interaction_id) for row in rows])
        deployment.wait_drained()
        began = time.monotonic()
        event(deployment, relays[0])
        deployment.record(rows)
        deployment.wait_drained()
        return time.monotonic() - began
    finally:
        for each in deployment.relays:
            each.kill()
        deployment.engine.dispose()


def _interaction(shard: int, shards: int) -> str:
    from outbox.models import shard_of

    return next(name for number in range(10_000) if shard_of(name := f"i-{number}", shards) == shard)


def _restart(deployment: Deployment, relay: RelayProcess) -> None:
    relay.kill()
    deployment.relay(TMPDIR=str(deployment.folder / "host-0"))


EVENTS: dict[str, Callable[[Deployment, RelayProcess], None]] = {
    "ends on SIGTERM": lambda _, relay: relay.signal(signal.SIGTERM),
    "is killed (-9) and started again on its host": _restart,
    "is killed (-9) and stays away": lambda _, relay: relay.kill(),
}

if __name__ == "__main__":
    main()
