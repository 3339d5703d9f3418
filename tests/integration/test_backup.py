"""docs/backup.md: what a copy made by the documented commands contains, and how a relay goes on with it."""

import re
import subprocess
from collections.abc import Callable

import pytest
from sqlalchemy import make_url

from testkit import ROOT
from testkit.command_line import command, expect
from testkit.deployment import Deploy, Deployment
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Postgres
from testkit.services.postgres import find_binaries
from testkit.topic import assert_exactly_once
from testkit.waiting import wait_until

PAGE = (ROOT / "docs/backup.md").read_text()


def documented(program: str) -> str:
    """The page's command that begins with a program, on one line."""
    (found,) = re.findall(rf"^{program} (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
    return str(found)


@pytest.fixture
def deployment(new_postgresql: Callable[[], str], kafka: Kafka | ExternalService, deploy: Deploy) -> Deployment:
    """A deployment on PostgreSQL."""
    return deploy(new_postgresql(), kafka)


def test_a_dump_restores_into_an_empty_database(deployment: Deployment, postgres: Postgres | ExternalService) -> None:
    """The documented commands; a relay on the restored database sends what the first one had not, exactly once."""
    ids = deployment.record(new_rows(20))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.stop()
    ids += deployment.record(new_rows(10))
    name = str(make_url(deployment.url).database)
    restored = postgres.create_database(f"{name}_restored")
    plain = deployment.url.replace("+psycopg", "")
    for program, url in (("pg_dump", plain), ("pg_restore", restored)):
        line = documented(program).replace("outbox.dump", f"{deployment.folder}/outbox.dump").replace("$URL", url)
        subprocess.run(["bash", "-c", f"{find_binaries()}/{line}"], check=True, timeout=120)
    deployment.environ["DATABASE_URL"] = restored.replace("postgresql://", "postgresql+psycopg://")
    expect(command(deployment.environ, "status", "--json"), 0, stdout='"pending": 10')
    deployment.relay()
    wait_until(
        lambda: '"pending": 0' in command(deployment.environ, "status", "--json").stdout, "the restored outbox drains"
    )
    assert_exactly_once(deployment.seen(), ids)
    expect(command(deployment.environ, "check"), 0, stdout="each of the newest 1,000,000 has one state")
