"""Inserting new rows: the shortest path from values to a commit, for many rows at once.

This module talks to the driver directly: SQLAlchemy took a third of the time. On PostgreSQL the insert and the commit
are one message: after each wait for the database the thread has to queue for the GIL again, behind the threads that
answer requests.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Dialect, Engine

from outbox.db import transactions
from outbox.db.engine import BEGIN, TRANSACTION_TIMEOUTS
from outbox.db.errors import Fault, classify
from outbox.models import Accepted, KeyReused, NewRow, RecordOutcome, RowRefused, body_digest, new_nonce
from outbox.partitioner import interaction_hash
from outbox.sql import insert as sql

NumberedRow = tuple[NewRow, int]
"""A row with its nonce."""

_MAX_ROWS_SQLITE = 1_000
"""Rows of one statement: SQLite binds at most 32,766 values."""
NO_DIGEST = None
"""Digest of a body that was erased, or whose key is its digest: a repeated key counts as the same body."""


class _StoredRow(NamedTuple):
    """The row that already has a key."""

    id: int
    nonce: int
    interaction_id: str
    payload_digest: bytes | None


def record(engine: Engine, rows: Sequence[NewRow]) -> list[RecordOutcome]:
    """Commit new rows; see ``Store.record``.

    If the connection is lost, try once more on a fresh one. A row keeps its nonce, so what the first attempt did commit
    is recognized and accepted as new, not as a duplicate.
    """
    numbered = [(row, new_nonce()) for row in rows]

    def attempt() -> list[RecordOutcome]:
        with transactions.driver(engine) as driver:
            return _record(driver, engine.dialect, numbered)

    return transactions.retry_once(attempt)


def _record(driver: Any, dialect: Dialect, numbered: Sequence[NumberedRow]) -> list[RecordOutcome]:
    try:
        ids = (_insert_postgresql if dialect.name == "postgresql" else _insert_sqlite)(driver, numbered)
    except dialect.loaded_dbapi.Error as error:
        if classify(error) is not Fault.ROW:
            raise
        driver.rollback()
        if len(numbered) == 1:
            return [RowRefused(type(error).__name__)]
        half = len(numbered) // 2  # one bad row must not fail the others
        return [o for part in (numbered[:half], numbered[half:]) for o in _record(driver, dialect, part)]
    stored = _stored(driver, dialect.name, [row for row, nonce in numbered if nonce not in ids])
    outcomes: list[RecordOutcome] = []
    for row, nonce in numbered:
        if nonce in ids:
            outcomes.append(Accepted(ids[nonce], row.interaction_id, duplicate=False))
        elif row.key in stored:
            outcomes.append(_outcome_of_known_key(row, nonce, stored[row.key]))
        else:  # the row with this key was pruned after the insert found it
            outcomes += _record(driver, dialect, [(row, nonce)])
    return outcomes


def _outcome_of_known_key(row: NewRow, nonce: int, stored: _StoredRow) -> RecordOutcome:
    if stored.payload_digest in (_payload_digest(row), NO_DIGEST):
        return Accepted(stored.id, stored.interaction_id, duplicate=stored.nonce != nonce)
    return KeyReused()


def _stored(driver: Any, dialect: str, rows: Sequence[NewRow]) -> dict[bytes, _StoredRow]:
    """Read the rows that already have the keys of these."""
    if not rows:
        return {}
    query = sql.ROWS_BY_KEY_POSTGRESQL if dialect == "postgresql" else sql.ROWS_BY_KEY_SQLITE
    return {
        bytes(key): _StoredRow(row_id, nonce, interaction_id, digest and bytes(digest))
        for key, row_id, nonce, interaction_id, digest in driver.execute(query, (_keys_as_json(rows),))
    }


def _keys_as_json(rows: Iterable[NewRow]) -> str:
    return json.dumps([row.key.hex() for row in rows])


def _payload_digest(row: NewRow) -> bytes | None:
    """Return the digest of a row's body, unless it is the row's key."""
    digest = body_digest(row.payload)
    return digest if digest != row.key else None


def _insert_postgresql(driver: Any, numbered: Sequence[NumberedRow]) -> dict[int, int]:
    """Insert rows whose key is new, and commit; return the id of each inserted row by its nonce."""
    with driver.pipeline():  # everything in a pipeline is one transaction, which its end commits
        driver.execute(TRANSACTION_TIMEOUTS)
        inserted = driver.execute(sql.INSERT_POSTGRESQL, (as_json(numbered),))
    return dict(inserted)


def as_json(numbered: Sequence[NumberedRow]) -> str:
    """Return rows as the JSON text that ``INSERT_POSTGRESQL`` takes."""
    return json.dumps(
        [
            {
                "nonce": nonce,
                "key": row.key.hex(),
                "hash": interaction_hash(row.interaction_id),
                "interaction_id": row.interaction_id,
                "channel": row.channel,
                "timestamp_ms": row.timestamp_ms,
                "customer_email": row.customer_email,
                "agent_id": row.agent_id,
                "payload": b64encode(row.payload).decode(),
                "payload_digest": digest.hex() if (digest := _payload_digest(row)) else None,
                "traceparent": row.traceparent,
            }
            for row, nonce in numbered
        ]
    )


def _insert_sqlite(driver: Any, numbered: Sequence[NumberedRow]) -> dict[int, int]:
    """Do the same on SQLite, where a single statement is a transaction by itself."""
    if len(numbered) <= _MAX_ROWS_SQLITE:
        return _insert_chunk(driver, numbered)
    driver.execute(BEGIN["sqlite"])
    ids: dict[int, int] = {}
    for start in range(0, len(numbered), _MAX_ROWS_SQLITE):
        ids |= _insert_chunk(driver, numbered[start : start + _MAX_ROWS_SQLITE])
    driver.commit()
    return ids


def _insert_chunk(driver: Any, numbered: Sequence[NumberedRow]) -> dict[int, int]:
    values: list[object] = []
    for row, nonce in numbered:
        values += (nonce, row.key, interaction_hash(row.interaction_id), row.interaction_id, row.channel)
        values += (row.timestamp_ms, row.customer_email, row.agent_id, row.payload)
        values += (_payload_digest(row), row.traceparent)
    cursor = driver.execute(sql.insert_sqlite(len(numbered)), values)
    nonces = [nonce for _, nonce in numbered]
    if cursor.rowcount == len(nonces):  # AUTOINCREMENT: each id is one above the one before, and no one else writes
        return dict(zip(nonces, range(cursor.lastrowid - len(nonces) + 1, cursor.lastrowid + 1), strict=True))
    keys = _keys_as_json(row for row, _ in numbered)
    return dict(driver.execute(sql.INSERTED_SQLITE, (keys, json.dumps(nonces))))
