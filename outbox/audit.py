"""The operators' record: one entry for each change, in its transaction, chained by hashes.

The chain shows that an entry was changed, or one before another removed. It cannot show that the newest
were cut off, or that someone who may write the table built it anew: for that, keep its last hash elsewhere.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox import operator_statements as sql
from outbox import statements, transactions
from outbox.rows import AuditEntry, Order, RowFilter

PAGE_ENTRIES = 1000
FIRST_HASH = ""
"""What the first entry follows."""
PERSONAL = ("interaction_id", "email")
"""Conditions that may name a person: they go on record as keyed hashes."""


class Verdict(NamedTuple):
    """What a check of the chain found."""

    entries: int
    last_hash: str
    broken: AuditEntry | None
    """The first entry that does not follow from the one before; None: all do."""
    holds: bool
    """Whether an entry has the hash that was asked for."""


def add(connection: Connection, verb: str, order: Order, ids: Sequence[int]) -> None:
    """Put a change of these rows on record, in the transaction of the change."""
    connection.execute(sql.LOCK_AUDIT.on(connection))
    previous = connection.execute(sql.LAST_AUDIT.on(connection)).scalar_one_or_none() or FIRST_HASH
    at_ms = int(connection.execute(statements.NOW.on(connection)).scalar_one())
    key = str(connection.execute(statements.IDENTITY.on(connection)).one().outbox_id)
    told = (order.actor, verb, _filter_on_record(order.rows, key), order.reason, json.dumps(ids))
    names = ("actor", "verb", "filter", "reason", "row_ids")
    values = {"at": at_ms, **dict(zip(names, told, strict=True)), "hash": chained(previous, at_ms, told)}
    connection.execute(sql.ADD_AUDIT.on(connection), values)


def entries(engine: Engine, row_id: int | None = None) -> Iterator[AuditEntry]:
    """Every entry, or every one that concerns a row; oldest first."""
    after = 0
    query = sql.AUDIT if row_id is None else sql.AUDIT_OF_ROW
    further = {} if row_id is None else {"row_id": row_id}
    while True:
        with transactions.read(engine) as connection:
            values = {"after": after, "limit": PAGE_ENTRIES, **further}
            page = [AuditEntry._make(row) for row in connection.execute(query.on(connection), values)]
        yield from page
        if len(page) < PAGE_ENTRIES:
            return
        after = page[-1].id


def verify(engine: Engine, head: str | None = None) -> Verdict:
    """Follow the chain.

    Args:
        head: a hash noted earlier, which an entry must still have.
    """
    previous, count, holds = FIRST_HASH, 0, head is None
    for entry in entries(engine):
        if entry.hash != chained(previous, entry.at_ms, entry[2:7]):
            return Verdict(count, previous, entry, holds)
        previous, count, holds = entry.hash, count + 1, holds or entry.hash == head
    return Verdict(count, previous, None, holds)


def chained(previous: str, at_ms: int, told: Sequence[str]) -> str:
    """The hash of an entry: SHA-256 over the hash before it, its time and its texts."""
    return hashlib.sha256(json.dumps([previous, at_ms, *told]).encode()).hexdigest()


def keyed(key: str, value: str) -> str:
    """A value that may name a person, as it stands on record: whoever knows the value can find it."""
    return f"hmac-sha256:{hmac.new(key.encode(), value.encode(), hashlib.sha256).hexdigest()}"


def _filter_on_record(rows: RowFilter, key: str) -> str:
    given = {name: value for name, value in asdict(rows).items() if value not in (None, ())}
    return json.dumps({n: keyed(key, v) if n in PERSONAL else v for n, v in given.items()}, sort_keys=True)
