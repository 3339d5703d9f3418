"""``python -m bench.operators [--rows N]``: time operators' commands with a long history.

Creates N sent rows, and a thousand rows each that are parked, pending and discarded, on both databases. Times the
first rows of ``list`` for common filters, ``show`` without Kafka, and ``status``, in this process; and one whole
``relay status`` process.
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

from bench.rows import add_history, without_timeout
from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.operators.change import Operations
from outbox.operators.row_history import RowHistories
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit import ROOT
from testkit.databases import migrate
from testkit.services import Postgres

FIRST_ROWS = 50
TIMES = 7
INTERVAL_MS = 20
"""Time between the receipt of two rows."""

MOVES = (
    """
    INSERT INTO outbox_parked (id, nonce, shard, interaction_id, state, error, changed_at)
    SELECT o.id, o.nonce, s.shard, o.interaction_id,
           CASE WHEN s.id % :step = 0 THEN 'parked' ELSE 'discarded' END, 'refused: too large', o.received_at
    FROM outbox_sent AS s JOIN outbox AS o ON o.id = s.id
    WHERE s.id <= :last - 1000 AND s.id % :step IN (0, 1)
    """,
    """
    INSERT INTO outbox_pending (shard, id, nonce)
    SELECT s.shard, o.id, o.nonce FROM outbox_sent AS s JOIN outbox AS o ON o.id = s.id WHERE s.id > :last - 1000
    """,
    """
    DELETE FROM outbox_sent WHERE id IN (SELECT id FROM outbox_pending UNION ALL SELECT id FROM outbox_parked)
    """,
)
"""Of each ``:step`` rows one becomes parked and one discarded, and the last thousand become pending."""


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
    engine = create_outbox_engine(
        url.replace("postgresql://", "postgresql+psycopg://"), answer_seconds=LONG_ANSWER_SECONDS
    )
    began = build_history(engine, rows)
    operations, histories, store = Operations(engine), RowHistories(engine), Store(engine)
    late, half = began + rows * INTERVAL_MS - 60_000, began + rows // 2 * INTERVAL_MS
    filters = {
        "list --state parked": RowFilter(state="parked"),
        "list --state pending": RowFilter(state="pending"),
        "list --state discarded": RowFilter(state="discarded"),
        "list --interaction": RowFilter(interaction_id=f"h-{rows // 6}"),
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
    for state in ("sent", "parked", "pending"):
        row_id = next(operations.find(RowFilter(state=state, since_ms=half))).id
        calls[f"show, a {state} row"] = lambda row_id=row_id: histories.get(row_id)  # type: ignore[misc]
    calls["status"] = store.status
    figures = {name: _time(call) for name, call in calls.items()}
    figures["list without a match or an index"] = _time(lambda: list(operations.find(RowFilter(channel="no"))), 1)
    figures["process relay status"] = _time(lambda: _run_status(url), 3)
    engine.dispose()
    return figures


def build_history(engine: Engine, rows: int) -> int:
    """Create a history that ends now, with parked, discarded and pending rows.

    Returns:
        When it began, in milliseconds since the epoch.
    """
    began = round(time.time() * 1000) - rows * INTERVAL_MS
    add_history(engine, rows, per_interaction=3, began_ms=began, interval_ms=INTERVAL_MS)
    with without_timeout(engine) as connection:
        for move in MOVES:
            connection.execute(text(move), {"step": max(4, rows // 1000), "last": rows})
    if engine.dialect.name == "postgresql":  # the product collects no statistics on SQLite
        with engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
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
