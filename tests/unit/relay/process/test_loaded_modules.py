"""What the relay process loads."""

import subprocess
import sys

from testkit import ROOT

LOADED_BY_RELAY = """
import sys
import relay.cli.run, relay.process.supervisor
from outbox.db.engine import create_outbox_engine
create_outbox_engine("postgresql+psycopg://outbox@localhost/outbox")
print(*sys.modules)
"""
NOT_NEEDED = (
    "alembic",
    "confluent_kafka.schema_registry",
    "flask",
    "gunicorn",
    "httpx",
    "migrations",
    "multiprocessing",
    "relay.check",
    "relay.demo",
    "rich.progress",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
)
"""Modules of commands, of the web process, and of parts of libraries that the relay does not use."""


def test_the_relay_loads_no_module_that_it_does_not_need() -> None:
    """Each would cost memory for as long as the process runs, and time at each start."""
    command = [sys.executable, "-c", LOADED_BY_RELAY]
    loaded = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert "relay.process.supervisor" in loaded
    assert {"psycopg", "confluent_kafka"} <= loaded
    assert loaded & set(NOT_NEEDED) == set()
