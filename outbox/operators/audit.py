"""The operators' record: one entry for each change, in its transaction, chained by hashes.

The chain shows that an entry was changed, or one before another removed. It cannot show that the newest
were cut off, or that someone who may write the table built it anew: for that, ``Heads`` follows its last
hash, which the relay logs, and operators may keep one elsewhere.
"""

import hashlib
import hmac
import json
import os
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.models import AuditContext, AuditEntry, RowFilter
from outbox.sql import flow
from outbox.sql import operators as sql

PAGE_ENTRIES = 1000
FIRST_HASH = ""
"""What the first entry follows."""
PERSONAL = ("interaction_id", "email")
"""Conditions that may name a person."""
NOT_RECORDED = "not recorded"
"""Stands for the value of such a condition where there is no key for pseudonyms."""


class ChainReport(NamedTuple):
    """What a check of the chain found."""

    entries: int
    last_hash: str
    broken: AuditEntry | None
    """The first entry that does not follow from the one before; None: all do."""
    holds: bool
    """Whether an entry has the hash that was asked for."""


class Head(NamedTuple):
    """The last entry of the chain; 0 without one."""

    id: int
    hash: str


class Seen(NamedTuple):
    """What became of the chain between two looks."""

    before: Head
    now: Head
    rewritten: bool
    """The entry that was last before is gone, or has another hash."""


def add(connection: Connection, verb: str, context: AuditContext, ids: Sequence[int]) -> None:
    """Put a change of these rows on record, in the transaction of the change."""
    connection.execute(sql.LOCK_AUDIT.on(connection))
    previous = connection.execute(sql.LAST_AUDIT.on(connection)).scalar_one_or_none() or FIRST_HASH
    at_ms = int(connection.execute(flow.NOW.on(connection)).scalar_one())
    given = _filter_on_record(context.rows, context.pseudonym_key)
    texts = (context.actor, verb, given, context.reason, json.dumps(ids), os_user())
    names = ("actor", "verb", "filter", "reason", "row_ids", "os_user")
    values = {"at": at_ms, **dict(zip(names, texts, strict=True)), "hash": chained(previous, at_ms, texts)}
    connection.execute(sql.ADD_AUDIT.on(connection), values)


def os_user() -> str:
    """The user that this process runs as, by the system's word, not by its environment's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


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


def verify(engine: Engine, head: str | None = None) -> ChainReport:
    """Follow the chain.

    Args:
        head: a hash noted earlier, which an entry must still have.
    """
    previous, count, holds = FIRST_HASH, 0, head is None
    for entry in entries(engine):
        if entry.hash != chained(previous, entry.at_ms, _texts(entry)):
            return ChainReport(count, previous, entry, holds)
        previous, count, holds = entry.hash, count + 1, holds or entry.hash == head
    return ChainReport(count, previous, None, holds)


def _texts(entry: AuditEntry) -> tuple[str, ...]:
    """What the entry's hash covers; an entry of a release before it names no user."""
    return (*entry[2:7], *(() if entry.os_user is None else (entry.os_user,)))


def chained(previous: str, at_ms: int, texts: Sequence[str]) -> str:
    """The hash of an entry: SHA-256 over the hash before it, its time and its texts."""
    return hashlib.sha256(json.dumps([previous, at_ms, *texts]).encode()).hexdigest()


def pseudonym(key: bytes | None, value: str) -> str:
    """A value that may name a person, as it goes on record: whoever has the key and the value can find it."""
    if key is None:
        return NOT_RECORDED
    return f"hmac-sha256:{hmac.new(key, value.encode(), hashlib.sha256).hexdigest()}"


def _filter_on_record(rows: RowFilter, key: bytes | None) -> str:
    given = {name: value for name, value in asdict(rows).items() if value not in (None, ())}
    return json.dumps({n: pseudonym(key, v) if n in PERSONAL else v for n, v in given.items()}, sort_keys=True)


class Heads:
    """Follows the last hash of the chain, for a log that whoever may write the table cannot change.

    Args:
        engine: of the outbox.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known = Head(0, FIRST_HASH)

    def look(self) -> Seen:
        """The last entry now, and whether the one that was last before still stands in the chain."""
        with transactions.read(self._engine) as connection:
            known = self._known
            there = connection.execute(sql.AUDIT_HASH.on(connection), {"id": known.id}).scalar_one_or_none()
            last = connection.execute(sql.AUDIT_HEAD.on(connection)).one_or_none()
        self._known = Head(last.id, last.hash) if last else Head(0, FIRST_HASH)
        return Seen(known, self._known, rewritten=bool(known.id) and there != known.hash)
