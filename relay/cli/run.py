"""``relay run``: the relay process."""

import sys

import click

from relay.process.main import run_relay


@click.command()
def run() -> None:
    """Run the relay: send outbox rows to Kafka until SIGTERM.

    It exits within 25 s, whether or not the broker answers.

    \b
    Examples:
      KAFKA_BOOTSTRAP_SERVERS=localhost:9092 SCHEMA_REGISTRY_URL=http://localhost:8081 relay run
      LOG_FORMAT=json RELAY_METRICS_PORT=9465 relay run
    """
    sys.exit(run_relay())
