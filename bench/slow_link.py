"""``python -m bench.slow_link [--rows N] [--mbit N]``: drain over a slow link, with default settings.

The relay reaches the broker through a proxy with limited bandwidth. Prints the share of the bandwidth that the rows'
keys, values and headers used, without protocol overhead. Time is measured from the first transaction, so the start
of the relay is not included.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.environment import open_environment
from config.settings import DEFAULT_SHARDS
from testkit.deployment import Deployment
from testkit.proxied_services import ProxiedKafka
from testkit.rows import large_rows
from testkit.waiting import wait_until

BROKER_DEFAULTS = {"transactional.id.expiration.ms": "604800000", "producer.id.expiration.ms": "86400000"}
"""The proxied broker expires ids within seconds by default, but here a transaction may wait for a minute."""


def main() -> None:
    """Measure a drain on both databases and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.slow_link")
    parser.add_argument("--rows", type=int, default=40_000, help="rows to drain (default: %(default)s)")
    parser.add_argument("--mbit", type=float, default=4.0, help="bandwidth in Mbit/s (default: %(default)s)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-slow-link-"))
    sys.stdout.write("| database | rows | bytes per record | seconds | share of the bandwidth |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    with open_environment(folder) as environment:
        kafka = ProxiedKafka(folder / "kafka", BROKER_DEFAULTS).start()
        kafka.proxy.bytes_per_second = options.mbit * 1_000_000 / 8
        proxied = {"KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers}
        try:
            for database in ("sqlite", "postgresql"):
                deployment = replace(environment, kafka=kafka).deployment(database, DEFAULT_SHARDS, **proxied)
                _measure(deployment, database, options)
        finally:
            kafka.stop()


def _measure(deployment: Deployment, database: str, options: argparse.Namespace) -> None:
    ids = deployment.record(large_rows(options.rows, 1_000))
    relay = deployment.relay()
    try:
        wait_until(lambda: deployment.pending() < len(ids), "the first rows are sent", 300)
        began, left = time.monotonic(), deployment.pending()
        deployment.wait_drained(1_800)
        seconds = time.monotonic() - began
    finally:
        relay.kill()
        deployment.engine.dispose()
    records = deployment.seen()
    deployment.check_exactly_once(ids)
    headers = sum(len(name) + len(value) for record in records for name, value in record.headers.items())
    size = headers + sum(len(record.key) + len(record.value) for record in records)
    share = size * left / len(ids) / seconds / (options.mbit * 1_000_000 / 8)
    sys.stdout.write(f"| {database} | {left:,} | {size / len(ids):.0f} | {seconds:.1f} | {share:.2f} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
