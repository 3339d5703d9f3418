"""The statement that inserts a batch on SQLite, with Python's own driver."""

import sqlite3
from contextlib import closing

import pytest

from outbox.sql.insert import insert_sqlite

COLUMNS = (
    "nonce, key UNIQUE, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload, "
    "payload_digest, traceparent, received_at"
)
ROW = ("i-1", "voice", 0, None, None, b"{}", b"", None)


@pytest.mark.parametrize("count", [1, 1000])
def test_the_driver_counts_inserted_rows(count: int) -> None:
    """It counts rows only of a statement whose first word is INSERT; without a count each batch costs a query more."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, {COLUMNS})")
        values = [value for number in range(count) for value in (number, f"key-{number}", number, *ROW)]
        cursor = connection.execute(insert_sqlite(count), values)
        assert (cursor.rowcount, cursor.lastrowid) == (count, count)
        stored = connection.execute("SELECT nonce, interaction_hash FROM outbox ORDER BY id").fetchall()
    assert stored == [(number, number) for number in range(count)]
