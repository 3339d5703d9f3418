"""``python -m bench.slow_link [--rows N] [--mbit N]``: a drain over a thin link, with default settings.

The relay reaches the broker through a proxy that carries so many bits a second. What is printed is the
share of it that records took: keys, values and headers of the rows, without any overhead of the protocol. Time
counts from the first transaction, so that the start of the relay is left out.
"""

import argparse
import sys
import tempfile
import time
import uuid
from pathlib import Path

from bench.environment import services
from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.proxied_services import ProxiedKafka
from testkit.rows import large_rows
from testkit.waiting import wait_until


def main() -> None:
    """Measure a drain on both databases, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.slow_link")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--mbit", type=float, default=4.0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-slow-link-"))
    sys.stdout.write("| database | shards | rows | bytes a record | seconds | share of the link |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    with services(folder) as (_, registry, postgres):
        # Its transactional ids live as long as with a broker's own settings: a minute of waiting is usual here.
        week = {"transactional.id.expiration.ms": "604800000", "producer.id.expiration.ms": "86400000"}
        kafka = ProxiedKafka(folder / "kafka", week).start()
        kafka.proxy.bytes_per_second = options.mbit * 1_000_000 / 8
        try:
            for kind, shards in (("sqlite", 1), ("postgresql", 8)):
                name = f"slow_{uuid.uuid4().hex[:8]}"
                url = f"sqlite:///{folder}/{name}.db" if kind == "sqlite" else postgres.create_database(name)
                url = url.replace("postgresql://", "postgresql+psycopg://")
                migrate(url, shards)
                settings = settings_for(kafka, registry, url) | {"KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers}
                deployment = Deployment(url, settings, {"bootstrap.servers": kafka.bootstrap_servers}, folder)
                _measure(deployment, kind, shards, options)
        finally:
            kafka.stop()


def _measure(deployment: Deployment, kind: str, shards: int, options: argparse.Namespace) -> None:
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
    seen = deployment.seen()
    deployment.check_exactly_once(ids)
    headers = sum(len(name) + len(value) for record in seen for name, value in record.headers.items())
    size = headers + sum(len(record.key) + len(record.value) for record in seen)
    share = size * left / len(ids) / seconds / (options.mbit * 1_000_000 / 8)
    sys.stdout.write(f"| {kind} | {shards} | {left:,} | {size / len(ids):.0f} | {seconds:.1f} | {share:.2f} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
