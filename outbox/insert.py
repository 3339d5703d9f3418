"""Recording new rows: the shortest way from values to a commit, for many rows at once.

It speaks to the driver itself: SQLAlchemy's part was a third of its time. Insert and commit are one message: the
thread that records competes for the interpreter with those that answer, and queues for it anew after each wait for
the database.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Dialect, Engine

from outbox.db import transactions
from outbox.db.engine import BEGIN, TIME_OUTS
from outbox.db.errors import Fault, classify
from outbox.models import Accepted, KeyReused, NewRow, RecordOutcome, RowRefused, new_nonce
from outbox.partitioner import interaction_hash
from outbox.sql import flow as sql

NumberedRow = tuple[NewRow, int]

_ROWS_A_STATEMENT = 1_000
"""On SQLite, which binds 32,766 values at most."""
UNKNOWN_DIGEST = None
"""Of a body that was erased, or that a release before digests stored: a repeated key counts as the same."""


def record(engine: Engine, rows: Sequence[NewRow]) -> list[RecordOutcome]:
    """Commit new rows; arguments, result and errors as ``Store.record``.

    If the connection is lost, once more on a fresh one. A row has the same tag in both attempts: what the lost one
    did commit is found by it, and is accepted, no repetition.
    """
    numbered = [(row, new_nonce()) for row in rows]

    def attempt() -> list[RecordOutcome]:
        with transactions.driver(engine) as driver:
            return _recorded(driver, engine.dialect, numbered)

    return transactions.repeated(attempt)


def _recorded(driver: Any, dialect: Dialect, numbered: Sequence[NumberedRow]) -> list[RecordOutcome]:
    rows, nonces = [row for row, _ in numbered], [nonce for _, nonce in numbered]
    try:
        ids = (_insert_postgresql if dialect.name == "postgresql" else _insert_sqlite)(driver, rows, nonces)
    except dialect.loaded_dbapi.Error as error:
        if classify(error) is not Fault.ROW:
            raise
        driver.rollback()
        if len(rows) == 1:
            return [RowRefused(type(error).__name__)]
        half = len(rows) // 2  # one bad row must not fail its neighbours
        return [o for part in (numbered[:half], numbered[half:]) for o in _recorded(driver, dialect, part)]
    known = _known(driver, dialect.name, [row.key for row, nonce in numbered if nonce not in ids])
    outcomes: list[RecordOutcome] = []
    for row, nonce in numbered:
        if nonce in ids:
            outcomes.append(Accepted(ids[nonce], row.interaction_id, duplicate=False))
        elif row.key in known:
            outcomes.append(_found(row, nonce, *known[row.key]))
        else:  # it has been pruned since the insert met it
            outcomes += _recorded(driver, dialect, [(row, nonce)])
    return outcomes


def _found(
    row: NewRow, nonce: int, outbox_id: int, found_nonce: int, interaction_id: str, digest: bytes | None
) -> RecordOutcome:
    """The outcome of a row whose key was there before this attempt."""
    if digest in (_digest(row), UNKNOWN_DIGEST):
        return Accepted(outbox_id, interaction_id, duplicate=found_nonce != nonce)
    return KeyReused()


def _known(driver: Any, dialect: str, keys: list[str]) -> dict[str, tuple[int, int, str, bytes | None]]:
    """Id, nonce, interaction id and digest of the body of the rows that have these keys."""
    if not keys:
        return {}
    found = driver.execute(sql.DIGESTS_BY_KEY[dialect], (json.dumps(keys),))
    return {
        key: (number, nonce, interaction_id, digest and bytes(digest))
        for key, number, nonce, interaction_id, digest in found
    }


def _digest(row: NewRow) -> bytes:
    return hashlib.sha256(row.payload).digest()


def _insert_postgresql(driver: Any, rows: Sequence[NewRow], nonces: Sequence[int]) -> dict[int, int]:
    """Insert rows whose key is new, and commit; tag to id of those that were inserted."""
    with driver.pipeline():  # what is sent together is one transaction, which its end commits
        driver.execute(TIME_OUTS)
        inserted = driver.execute(sql.RECORD_POSTGRESQL, (as_json(rows, nonces),))
    return dict(inserted)


def as_json(rows: Sequence[NewRow], nonces: Sequence[int]) -> str:
    """The one value that ``RECORD_POSTGRESQL`` takes."""
    values = [
        {
            "nonce": nonce,
            "key": row.key,
            "hash": interaction_hash(row.interaction_id),
            "interaction_id": row.interaction_id,
            "channel": row.channel,
            "timestamp_ms": row.timestamp_ms,
            "customer_email": row.customer_email,
            "agent_id": row.agent_id,
            "payload": b64encode(row.payload).decode(),
            "payload_digest": _digest(row).hex(),
            "traceparent": row.traceparent,
        }
        for row, nonce in zip(rows, nonces, strict=True)
    ]
    return json.dumps(values)


def _insert_sqlite(driver: Any, rows: Sequence[NewRow], nonces: Sequence[int]) -> dict[int, int]:
    """As on PostgreSQL. One statement is a transaction by itself."""
    if len(rows) <= _ROWS_A_STATEMENT:
        return _insert_chunk(driver, rows, nonces)
    driver.execute(BEGIN["sqlite"])
    ids: dict[int, int] = {}
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        chunk = slice(start, start + _ROWS_A_STATEMENT)
        ids |= _insert_chunk(driver, rows[chunk], nonces[chunk])
    driver.commit()
    return ids


def _insert_chunk(driver: Any, rows: Sequence[NewRow], nonces: Sequence[int]) -> dict[int, int]:
    values: list[object] = []
    for row, nonce in zip(rows, nonces, strict=True):
        values += (nonce, row.key, interaction_hash(row.interaction_id), row.interaction_id, row.channel)
        values += (row.timestamp_ms, row.customer_email, row.agent_id, row.payload, _digest(row), row.traceparent)
    cursor = driver.execute(sql.record_sqlite(len(rows)), values)
    if cursor.rowcount == len(rows):  # AUTOINCREMENT: each is one above the one before, and no one else writes
        return dict(zip(nonces, range(cursor.lastrowid - len(rows) + 1, cursor.lastrowid + 1), strict=True))
    return dict(driver.execute(sql.IDS_SQLITE, (json.dumps([row.key for row in rows]), json.dumps(nonces))))
