"""``python -m tests.attack``: run each kind of attack on web and relay on this machine, and print a table."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import psycopg
from sqlalchemy import make_url

from outbox.db.engine import create_outbox_engine
from testkit.databases import migrate
from testkit.relay_process import RelayProcess
from testkit.services import ExternalService, Postgres
from testkit.waiting import wait_until
from testkit.web_process import RawResponse, WebProcess
from tests.attack.honest import get_health, post_interaction
from tests.attack.hostile import KINDS
from tests.attack.measure import AttackResult, attack

TARGETS = ("web-sqlite", "web-postgresql", "relay")
HEADER = (
    "| server | attack | requests | failed | refused | lost | p50 | p99 | /healthz p99 | memory | fds | recovered |"
)
_numbers = count()


class Target(NamedTuple):
    """A server under attack."""

    port: int
    pid: int
    request: Callable[[int], RawResponse]
    """Sends one request of an honest client."""
    url: str
    """URL of the outbox's database."""


def main() -> None:
    """Run the attacks, and print the table line by line."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="outbox-attack-"))
    sys.stdout.write(f"{options.connections} hostile connections, {options.seconds:.0f} s each\n\n{HEADER}\n")
    sys.stdout.write("|---|---|" + "---|" * 10 + "\n")
    try:
        for name in options.targets:
            for kind in options.kinds:
                with _target(name, folder) as target:
                    result = attack(kind, target.port, target.pid, target.request, options.connections, options.seconds)
                    sys.stdout.write(_line(name, kind, result, count_lost(target.url, result)) + "\n")
                    sys.stdout.flush()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def count_lost(url: str, result: AttackResult) -> int:
    """Number of interactions that were answered with 202 and are not in the outbox."""
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        stored = {row.id for row in connection.exec_driver_sql("SELECT id FROM outbox")}
    engine.dispose()
    return len({answer.json["outboxId"] for answer in result.answers if answer.status == 202} - stored)


def _line(name: str, kind: str, result: AttackResult, missing: int) -> str:
    cells = (
        *(name, kind, result.requests, len(result.failed), result.refused, missing),
        *(f"{value:,.0f} ms" for value in (result.p50_ms, result.p99_ms, result.health_p99_ms)),
        *(f"{result.memory_mb:.0f} MB", result.descriptors, f"{result.recovered_seconds:.1f} s"),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


@contextmanager
def _target(name: str, folder: Path) -> Iterator[Target]:
    """Run a server on a fresh outbox."""
    with _outbox(name, folder) as url:
        if name == "relay":
            unreachable = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9"}
            environ = {"DATABASE_URL": url, **unreachable}
            relay = RelayProcess(environ, folder / "relay.log")
            try:
                wait_until(lambda: relay.get("/healthz"), "the relay answers")
                yield Target(relay.metrics_port, relay.pid, get_health, url)
            finally:
                relay.kill()
            return
        environ = {"DATABASE_URL": url, "WEB_CONCURRENCY": "1" if "sqlite" in name else "2", "LOG_LEVEL": "ERROR"}
        web = WebProcess(environ, folder / "web.log")
        try:
            yield Target(web.port, web.process.pid, post_interaction, url)
        finally:
            web.kill()


@contextmanager
def _outbox(name: str, folder: Path) -> Iterator[str]:
    if name != "web-postgresql":
        path = Path(tempfile.mkdtemp(dir=folder)) / "outbox.db"
        migrate(f"sqlite:///{path}", 1)
        yield f"sqlite:///{path}"
        return
    postgres = ExternalService.postgres() or Postgres(folder / "postgres")
    if not isinstance(postgres, ExternalService):
        postgres.start()
    try:
        name = f"attack_{folder.name.rpartition('-')[2]}_{next(_numbers)}".lower()
        url = postgres.create_database(name)
        migrate(url, 1)
        yield make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
    finally:
        if not isinstance(postgres, ExternalService):
            postgres.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--connections", type=int, choices=range(1, 4_001), metavar="N", default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each attack")
    return parser.parse_args()


if __name__ == "__main__":
    main()
