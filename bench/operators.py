"""``python -m bench.operators [--rows N]``: time operators' commands with a long history.

Creates N sent rows, and a thousand rows each that are parked, pending and discarded, on both databases. Times the
first rows of ``list`` for common filters, and ``status``, in this process; and one whole ``relay status`` process.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from outbox.db.engine import create_outbox_engine
from outbox.operators.change import Operations
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit import ROOT
from testkit.databases import migrate
from testkit.services import Postgres

CHUNK = 50_000
FIRST_ROWS = 50
TIMES = 7
INTERVAL_MS = 20
"""Time between the receipt of two rows."""

HISTORY = text("""
    INSERT INTO outbox (nonce, key, shard, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
                        state, received_at, sent_at, sequence)
    WITH RECURSIVE numbers(n) AS (SELECT CAST(:first AS bigint) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
    SELECT n, 'key:' || n, n / 3 % :shards, 'interaction-' || (n / 3), 'voice', n, 'someone@example.com', 'agent-7',
           :payload, 'sent', :began + n * :interval, :began + n * :interval, 1 FROM numbers
""")


def main() -> None:
    """Run the benchmark and print a JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench.operators")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of history (default: %(default)s)")
    rows = parser.parse_args().rows
    folder = Path(tempfile.mkdtemp(prefix="outbox-bench-"))
    postgres = Postgres(folder / "postgres")
    postgres.start()
    report: dict[str, Any] = {"rows": rows}
    try:
        urls = {
            "sqlite": f"sqlite:///{folder}/outbox.db",
            "postgresql": postgres.create_database(f"bench_{uuid.uuid4().hex[:8]}"),
        }
        for database, url in urls.items():
            report[database] = _measure(url, rows)
            sys.stderr.write(f"{database} done\n")
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)  # gigabytes, after a long history
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _measure(url: str, rows: int) -> dict[str, Any]:
    migrate(url, 1)
    engine = create_outbox_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    began = _build(engine, rows)
    operations, store = Operations(engine), Store(engine)
    late, half = began + rows * INTERVAL_MS - 60_000, began + rows // 2 * INTERVAL_MS
    filters = {
        "list --state parked": RowFilter(state="parked"),
        "list --state pending": RowFilter(state="pending"),
        "list --state discarded": RowFilter(state="discarded"),
        "list --interaction": RowFilter(interaction_id=f"interaction-{rows // 6}"),
        "list --since (last minute)": RowFilter(since_ms=late),
        "list --since (half of the history)": RowFilter(since_ms=half),
        "list --state parked --since (half of the history)": RowFilter(state="parked", since_ms=half),
        "list --all": RowFilter(),
    }
    calls: dict[str, Callable[[], object]] = {
        name: lambda wanted=wanted: list(islice(operations.find(wanted), FIRST_ROWS))  # type: ignore[misc]
        for name, wanted in filters.items()
    }
    calls["list --group-by error"] = lambda: operations.parked_by_error(RowFilter())
    calls["status"] = store.status
    figures = {name: _time(call) for name, call in calls.items()}
    figures["list without a match or an index"] = _time(lambda: list(operations.find(RowFilter(channel="no"))), 1)
    figures["process relay status"] = _time(lambda: _run_status(url), 3)
    engine.dispose()
    return figures


def _build(engine: Engine, rows: int) -> int:
    """Create a history that ends now, and return when it began, in milliseconds."""
    began = round(time.time() * 1000) - rows * INTERVAL_MS
    values = {"shards": 1, "payload": b'{"id": "x", "channel": "voice"}', "began": began, "interval": INTERVAL_MS}
    for first in range(1, rows + 1, CHUNK):
        with engine.begin() as connection:
            connection.execute(HISTORY, {**values, "first": first, "last": min(first + CHUNK - 1, rows)})
    step = max(4, rows // 1000)
    with engine.begin() as connection:
        for offset, (state, error) in enumerate((("parked", "'refused: too large'"), ("discarded", "'refused'"))):
            connection.execute(
                text(
                    f"UPDATE outbox SET state = '{state}', error = {error}, sent_at = NULL, sequence = NULL, "
                    f"changed_at = received_at WHERE id % {step} = {offset}"
                )
            )
        connection.execute(
            text(f"UPDATE outbox SET state = 'pending', sent_at = NULL, sequence = NULL WHERE id > {rows - 1000}")
        )
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE outbox" if engine.dialect.name == "postgresql" else "ANALYZE")
    return began


def _time(call: Callable[[], object], times: int = TIMES) -> dict[str, float]:
    call()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1000)
    return {
        "min ms": round(min(spent), 1),
        "median ms": round(statistics.median(spent), 1),
        "max ms": round(max(spent), 1),
    }


def _run_status(url: str) -> None:
    command = [sys.executable, "-m", "relay", "status", "--json"]
    subprocess.run(command, cwd=ROOT, env={"DATABASE_URL": url, "PATH": ""}, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
