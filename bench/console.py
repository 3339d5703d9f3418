"""``python -m bench.console [--rows N] [--database …]``: time the console's pages with a long history.

Creates N sent rows, each with its inference call and an entry of the audit log, and a thousand rows each that are
parked, pending and discarded. Then it starts the console as in production, without Kafka, and requests each page from
this machine several times, one request at a time. Prints a JSON document on stdout and a table on stderr.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import Engine, text

from bench.environment import PeakMemory
from bench.operators import build_history
from bench.report import machine, spread, table
from bench.rows import vacuum, without_timeout
from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.operators import audit
from outbox.operators.apply import CHUNK_ROWS
from outbox.operators.audit import AuditContext
from outbox.operators.rows import RowFilter
from testkit.console import PASSWORD
from testkit.console_process import ConsoleProcess
from testkit.databases import migrate
from testkit.services import Postgres

DATABASES = ("sqlite", "postgresql")
ENTRIES_AT_ONCE = 100
"""Audit entries per transaction."""
PARKED_CALLS = 1_000
TIMES = 11
WHY = "a benchmark"

ADD_CALLS = """
    INSERT INTO outbox_inference_call (row_id, interaction_id, state, attempts, due_at, status)
    SELECT o.id, o.interaction_id, 'done', 1, s.sent_at, 200
    FROM outbox_sent AS s JOIN outbox AS o ON o.id = s.id
"""
PARK_CALLS = """
    UPDATE outbox_inference_call SET state = 'parked', error = 'HTTP 422', status = 422
    WHERE row_id IN (SELECT id FROM outbox_sent ORDER BY id DESC LIMIT :count)
"""
PAGES = (
    *("/", "/problems", "/problems?error=large", "/rows", "/rows?state=pending", "/rows?state=sent"),
    *("/rows?state=parked", "/rows?state=discarded", "/rows?error=large", "/rows?error=none", "/rows?channel=voice"),
    *("/rows?channel=none", "/rows?since=1h", "/rows?until=1h", "/calls", "/calls?error=none", "/shards"),
    *("/audit", "/audit?after=3", "/check", "/erase", "/prune", "/readyz"),
)
Send = Callable[[], requests.Response]


class Browser:
    """A session of a user.

    Args:
        origin: of the console.
        name: of the user.
    """

    def __init__(self, origin: str, name: str) -> None:
        self._origin, self._session = origin, requests.Session()
        self._token = self._find_token("/login")
        self.post("/login", username=name, password=PASSWORD)
        self._token = self._find_token("/")

    def _find_token(self, path: str) -> str:
        (token,) = set(re.findall(r'name="csrf_token" value="([^"]+)"', self.get(path).text))
        return str(token)

    def get(self, path: str) -> requests.Response:
        """Request a page."""
        return self._session.get(self._origin + path, timeout=300)

    def post(self, path: str, **fields: str) -> requests.Response:
        """Send a form; redirects are not followed."""
        data = {"csrf_token": self._token, **fields}
        return self._session.post(self._origin + path, data=data, timeout=300, allow_redirects=False)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.console")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of history (default: %(default)s)")
    parser.add_argument("--database", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument("--times", type=int, default=TIMES, help="requests of each page (default: %(default)s)")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "options": vars(options)}
    folder = Path(tempfile.mkdtemp(prefix="outbox-bench-"))
    try:
        for database in options.database:
            report[database] = _measure(database, folder, options.rows, options.times)
            sys.stderr.write(table({database: report[database]}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _measure(database: str, folder: Path, rows: int, times: int) -> dict[str, Any]:
    if database == "sqlite":
        return _measure_at(f"sqlite:///{folder}/outbox.db", folder, rows, times)
    postgres = Postgres(folder / "postgres")
    postgres.start()
    try:
        url = postgres.create_database(f"bench_{uuid.uuid4().hex[:8]}")
        return _measure_at(url.replace("postgresql://", "postgresql+psycopg://"), folder, rows, times)
    finally:
        postgres.stop()


def _measure_at(url: str, folder: Path, rows: int, times: int) -> dict[str, Any]:
    migrate(url, 1)
    engine = create_outbox_engine(url, answer_seconds=LONG_ANSWER_SECONDS)
    build_outbox(engine, rows)
    ids = _example_ids(engine)
    engine.dispose()
    console = ConsoleProcess(url, folder, LOG_LEVEL="WARNING").start()
    try:
        browser, at_start = Browser(console.origin, "custodian"), _megabytes(console)
        with PeakMemory([console.worker.pid]) as peak:
            figures = {name: _time(send, times) for name, send in _requests(browser, ids, rows).items()}
            figures["POST /audit, which verifies every entry"] = _time(lambda: browser.post("/audit"), 1)
        memory = {"at start": at_start, "at the end": _megabytes(console), "highest": round(peak.megabytes)}
    finally:
        console.stop()
    return {"ms": figures, "memory of the console in MB": memory}


def _megabytes(console: ConsoleProcess) -> int:
    return round(console.worker.memory_info().rss / 2**20)


def build_outbox(engine: Engine, rows: int) -> None:
    """Create a history with calls and an audit log that names each row once, as replays in chunks would."""
    build_history(engine, rows)
    with without_timeout(engine) as connection:
        connection.execute(text(ADD_CALLS))
        connection.execute(text(PARK_CALLS), {"count": PARKED_CALLS})
    context = AuditContext("ann", "a consumer lost an hour", RowFilter())
    chunks = [range(first, min(first + CHUNK_ROWS, rows + 1)) for first in range(1, rows + 1, CHUNK_ROWS)]
    for first in range(0, len(chunks), ENTRIES_AT_ONCE):
        with engine.begin() as connection:
            for chunk in chunks[first : first + ENTRIES_AT_ONCE]:
                audit.add(connection, "replay plan", context, list(chunk))
    vacuum(engine)


def _example_ids(engine: Engine) -> dict[str, int]:
    """Return a row of each state from the middle of the history."""
    with engine.connect() as connection:
        return {
            state: connection.execute(text(f"SELECT id FROM {source} ORDER BY id LIMIT 1 OFFSET 100")).scalar_one()
            for state, source in (
                ("sent", "outbox_sent"),
                ("pending", "outbox_pending"),
                ("parked", "outbox_parked WHERE state = 'parked'"),
            )
        }


def _requests(browser: Browser, ids: Mapping[str, int], rows: int) -> dict[str, Send]:
    """Return what is measured, by name: each page, and each form. No request makes a later one slower."""
    sent = ids["sent"]
    pages = {
        **{path: path for path in PAGES},
        "/rows?after=ID": f"/rows?after={rows // 2}",
        "/rows?like=ID": f"/rows?like={sent}",
        "/rows?like=ID&by=address": f"/rows?like={sent}&by=address",
        **{f"/rows/ID, {state}": f"/rows/{row_id}" for state, row_id in ids.items()},
    }
    forms = {
        "POST /rows, an address that no row has": ("/rows", {"address": "nobody@example.com"}),
        "POST /rows, an interaction": ("/rows", {"interaction": "h-7"}),
        "POST /rows/ID/reveal": (f"/rows/{sent}/reveal", {"reason": WHY}),
        "POST /shards/pause": ("/shards/pause", {"shard": "all", "for": "1m", "reason": WHY}),
        "POST /plans, to retry all parked rows": ("/plans", {"verb": "retry", "state": "parked"}),
    }
    return {
        **{name: partial(browser.get, path) for name, path in pages.items()},
        **{name: partial(browser.post, path, **fields) for name, (path, fields) in forms.items()},
    }


def _time(send: Send, times: int) -> dict[str, Any]:
    """Return the time until a response was complete, in milliseconds; the first request counts, too."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        response = send()
        spent.append((time.perf_counter() - began) * 1000)
        assert response.status_code in (200, 303, 400), (response.url, response.status_code)
    return spread(spent, 1)


if __name__ == "__main__":
    main()
