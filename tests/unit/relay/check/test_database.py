"""What ``relay check`` decides about a database; no database is queried."""

from dataclasses import replace

import pytest

from outbox.db.diagnostics import DatabaseInfo
from outbox.db.replication import Replication, Slot
from relay.check.database import judge_database, judge_revision
from relay.check.replication import judge_replication
from testkit.findings import problems

SQLITE = DatabaseInfo("sqlite", (3, 53, 4), {"journal_mode": "wal", "synchronous": "2"}, False, 1_000_000, 10**12, 0.0)
DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "synchronous_standby_names": "other",
}
POSTGRESQL = DatabaseInfo("postgresql", (18, 1), DURABLE, False, 1_000_000, None, 0.0)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (POSTGRESQL, {}),
        (replace(POSTGRESQL, version=(13, 9)), {"database version": "warning"}),
        (replace(POSTGRESQL, standby=True), {"database role": "failure"}),
        (
            replace(POSTGRESQL, settings=DURABLE | {"synchronous_standby_names": ""}),
            {"database durability": "warning"},
        ),
        (replace(POSTGRESQL, settings=DURABLE | {"synchronous_commit": "local"}), {"database durability": "warning"}),
        (replace(POSTGRESQL, settings=DURABLE | {"full_page_writes": "off"}), {"database durability": "warning"}),
    ],
)
def test_postgresql(info: DatabaseInfo, expected: dict[str, str]) -> None:
    """Version, role and durability are judged separately. A server does not report its free disk space."""
    assert problems(judge_database(info)) == {"database disk": "unknown", **expected}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (SQLITE, {}),
        (replace(SQLITE, version=(3, 37, 2)), {"database version": "failure"}),
        (replace(SQLITE, version=(3, 45, 1)), {"database version": "warning"}),
        (replace(SQLITE, free_bytes=10**6), {"database disk": "failure"}),
        (replace(SQLITE, free_bytes=10**9), {"database disk": "warning"}),
        (replace(SQLITE, clock_ahead_seconds=-9.0), {"clock": "warning"}),
    ],
)
def test_sqlite(info: DatabaseInfo, expected: dict[str, str]) -> None:
    """Version, disk and clock are judged separately. One file on one disk is always a warning."""
    assert problems(judge_database(info)) == {"database durability": "warning", **expected}


@pytest.mark.parametrize(
    ("revision", "status"), [(None, "failure"), ("0001", "failure"), ("0002", "ok"), ("0003", "warning")]
)
def test_a_schema_is_compared_with_the_release(revision: str | None, status: str) -> None:
    """An older schema is a failure, a newer one a warning."""
    assert judge_revision(revision, "0002").status == status


def test_only_pgoutput_needs_a_publication() -> None:
    """Readers of the other plugins get every table, whatever is published."""
    slots = [Slot("a", "pgoutput", True, 0), Slot("b", "wal2json", True, 0), Slot("c", "test_decoding", False, 10**9)]
    unpublished, published = judge_replication(Replication(slots, [])), judge_replication(Replication(slots, ["p"]))
    assert [finding.detail.partition(" can read")[0] for finding in unpublished] == [
        "slot b (wal2json, which needs no publication)",
        "slot c (test_decoding, which needs no publication)",
    ]
    assert [finding.status for finding in published] == ["warning"] * 3
    assert "1,000 MB" in published[2].detail
    assert [finding.status for finding in judge_replication(Replication([], ["p"]))] == ["ok"]
