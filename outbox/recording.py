"""Recording new rows: the shortest way from values to a commit, for many rows at once.

This is the one verb that speaks to the driver itself: SQLAlchemy's part was a third of its time.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine

from outbox import statements as sql
from outbox import transactions
from outbox.engine import BEGIN
from outbox.hashing import interaction_hash
from outbox.rows import ERASED_PAYLOAD, Accepted, KeyReused, NewRow, RecordOutcome, RowRefused, new_tag

_ROWS_A_STATEMENT = 1_000
"""On SQLite, which binds 32,766 values at most."""


def record(engine: Engine, rows: Sequence[NewRow]) -> list[RecordOutcome]:
    """Commit new rows in one transaction; arguments, result and errors as ``Store.record``."""
    dialect = engine.dialect.name
    row_errors = transactions.row_errors(engine)
    with transactions.driver(engine) as driver:
        cursor = driver.cursor()
        try:
            cursor.execute(BEGIN[dialect])
            outcomes = _recorded(cursor, dialect, rows)
        except row_errors:
            # One bad row must not fail its neighbours. Still one commit: either all outcomes hold, or none.
            driver.rollback()
            cursor.execute(BEGIN[dialect])
            outcomes = [_recorded_alone(cursor, dialect, row, row_errors) for row in rows]
        driver.commit()
    return outcomes


def _recorded_alone(cursor: Any, dialect: str, row: NewRow, row_errors: tuple[type[Exception], ...]) -> RecordOutcome:
    cursor.execute("SAVEPOINT row_alone")
    try:
        (outcome,) = _recorded(cursor, dialect, [row])
    except row_errors as error:
        cursor.execute("ROLLBACK TO SAVEPOINT row_alone")
        return RowRefused(type(error).__name__)
    cursor.execute("RELEASE SAVEPOINT row_alone")
    return outcome


def _recorded(cursor: Any, dialect: str, rows: Sequence[NewRow]) -> list[RecordOutcome]:
    tags = [new_tag() for _ in rows]
    ids = (_insert_postgresql if dialect == "postgresql" else _insert_sqlite)(cursor, rows, tags)
    if len(ids) == len(rows):
        return [Accepted(ids[tag], row.interaction_id, duplicate=False) for row, tag in zip(rows, tags, strict=True)]
    known = _known(cursor, dialect, [row.key for row, tag in zip(rows, tags, strict=True) if tag not in ids])
    return [
        Accepted(ids[tag], row.interaction_id, duplicate=False)
        if tag in ids
        else _repeated(cursor, dialect, row, known)
        for row, tag in zip(rows, tags, strict=True)
    ]


def _repeated(cursor: Any, dialect: str, row: NewRow, known: dict[str, tuple[int, str, bytes]]) -> RecordOutcome:
    if row.key not in known:  # it has been pruned since the insert met it
        (outcome,) = _recorded(cursor, dialect, [row])
        return outcome
    outbox_id, interaction_id, payload = known[row.key]
    same = payload in (row.payload, ERASED_PAYLOAD)
    return Accepted(outbox_id, interaction_id, duplicate=True) if same else KeyReused()


def _known(cursor: Any, dialect: str, keys: list[str]) -> dict[str, tuple[int, str, bytes]]:
    """Id, interaction id and payload of the rows that have these keys."""
    found = cursor.execute(sql.PAYLOADS_BY_KEY[dialect], (json.dumps(keys),))
    return {key: (number, interaction_id, bytes(payload)) for key, number, interaction_id, payload in found}


def _insert_postgresql(cursor: Any, rows: Sequence[NewRow], tags: Sequence[int]) -> dict[int, int]:
    """Insert rows whose key is new; tag to id of those that were inserted."""
    values = [
        {
            "tag": tag,
            "key": row.key,
            "hash": interaction_hash(row.interaction_id),
            "interaction_id": row.interaction_id,
            "channel": row.channel,
            "timestamp_ms": row.timestamp_ms,
            "customer_email": row.customer_email,
            "agent_id": row.agent_id,
            "payload": b64encode(row.payload).decode(),
            "traceparent": row.traceparent,
        }
        for row, tag in zip(rows, tags, strict=True)
    ]
    return dict(cursor.execute(sql.RECORD_POSTGRESQL, (json.dumps(values),)))


def _insert_sqlite(cursor: Any, rows: Sequence[NewRow], tags: Sequence[int]) -> dict[int, int]:
    """As on PostgreSQL. Few statements: each one hands the interpreter over to other threads and back."""
    inserted = 0
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        values: list[object] = []
        for row, tag in zip(rows[start : start + _ROWS_A_STATEMENT], tags[start:], strict=False):
            values += (tag, row.key, interaction_hash(row.interaction_id), row.interaction_id, row.channel)
            values += (row.timestamp_ms, row.customer_email, row.agent_id, row.payload, row.traceparent)
        inserted += cursor.execute(sql.record_sqlite(len(values) // 10), values).rowcount
    ((newest,),) = cursor.execute(sql.NEWEST_SQLITE, (inserted,))
    return dict(json.loads(newest))
