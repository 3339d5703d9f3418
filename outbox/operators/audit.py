"""The audit log: an entry for each change by an operator, written in its transaction and chained by hashes.

The chain shows that an entry was changed, or that one before another was removed. It cannot show that the newest
entries were removed, or that somebody with write access rebuilt the table. For that the relay logs the last hash
(``AuditHead``), and operators may keep one elsewhere.
"""

import hashlib
import hmac
import json
import os
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.operators.rows import RowFilter
from outbox.sql import audit as sql
from outbox.sql import flow

PAGE_ENTRIES = 1000
FIRST_HASH = ""
"""What the first entry follows."""
PERSONAL = ("interaction_id", "key", "email")
"""Conditions that may identify a person."""
VERBS = (
    "replay", "retry", "discard", "inference", "erase", "prune", "reveal", "pause", "resume", "reshard", "reconcile",
    "send",
)  # fmt: skip
"""First words of the entries' verbs; a shard's number or a plan's name may follow."""
NOT_RECORDED = "not recorded"
"""Replaces the value of such a condition where there is no key for pseudonyms."""


@dataclass(frozen=True, slots=True)
class AuditContext:
    """Who makes a change, and why."""

    actor: str
    reason: str
    rows: RowFilter
    """The filter that selected the rows of the change."""
    pseudonym_key: bytes | None = field(default=None, repr=False)
    """With it, values of the filter that may identify a person are recorded as pseudonyms; without, not at all."""


class AuditEntry(NamedTuple):
    """One change by an operator."""

    id: int
    at_ms: int
    actor: str
    verb: str
    filter: str
    """JSON of the filter; values that may identify a person are pseudonyms, or left out."""
    reason: str
    row_ids: str
    """JSON list of the rows that were changed."""
    hash: str
    os_user: str
    """The user of the process that wrote it, independent of the actor."""


class ChainReport(NamedTuple):
    """The result of verifying the chain."""

    entries: int
    last_hash: str
    broken: AuditEntry | None
    """The first entry that does not follow from the one before; None: all do."""
    holds: bool
    """Whether an entry has the hash that the caller expected."""


class Head(NamedTuple):
    """The last entry of the chain; id 0: there is none."""

    id: int
    hash: str


class HeadChange(NamedTuple):
    """How the end of the chain changed between two reads."""

    before: Head
    now: Head
    rewritten: bool
    """Whether the entry that was last before is gone, or has another hash."""


def add(connection: Connection, verb: str, context: AuditContext, ids: Sequence[int]) -> int:
    """Add an entry for a change of these rows, in the transaction of the change; return its id."""
    connection.execute(sql.LOCK.on(connection))
    last = connection.execute(sql.LAST.on(connection)).one_or_none()
    at_ms = int(connection.execute(flow.NOW.on(connection)).scalar_one())
    covered = {
        "actor": context.actor,
        "verb": verb,
        "filter": _recorded_filter(context.rows, context.pseudonym_key),
        "reason": context.reason,
        "row_ids": json.dumps(ids),
        "os_user": os_user(),
    }
    entry_hash = chain_hash(last.hash if last else FIRST_HASH, at_ms, list(covered.values()))
    added = connection.execute(sql.ADD.on(connection), {"at": at_ms, **covered, "hash": entry_hash})
    return int(added.scalar_one())


def os_user() -> str:
    """Return the user that this process runs as, from the operating system, not from the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def entries(engine: Engine, row_id: int | None = None) -> Iterator[AuditEntry]:
    """Yield all entries, or those that concern a row; oldest first."""
    after = 0
    query, condition = (sql.ENTRIES, {}) if row_id is None else (sql.ENTRIES_OF_ROW, {"row_id": row_id})
    while True:
        with transactions.read(engine) as connection:
            values = {"after": after, "limit": PAGE_ENTRIES, **condition}
            page = [AuditEntry._make(row) for row in connection.execute(query.on(connection), values)]
        yield from page
        if len(page) < PAGE_ENTRIES:
            return
        after = page[-1].id


def verify(engine: Engine, head: str | None = None) -> ChainReport:
    """Check that each entry follows from the one before.

    Args:
        head: a hash noted earlier, which an entry must still have.
    """
    previous, count, holds = FIRST_HASH, 0, head is None
    for entry in entries(engine):
        if entry.hash != chain_hash(previous, entry.at_ms, _covered(entry)):
            return ChainReport(count, previous, entry, holds)
        previous, count, holds = entry.hash, count + 1, holds or entry.hash == head
    return ChainReport(count, previous, None, holds)


def _covered(entry: AuditEntry) -> list[str]:
    """Return the values that the entry's hash covers."""
    return [entry.actor, entry.verb, entry.filter, entry.reason, entry.row_ids, entry.os_user]


def chain_hash(previous: str, at_ms: int, covered: Sequence[str]) -> str:
    """Return the hash of an entry: SHA-256 of the hash before it, its time and its values."""
    return hashlib.sha256(json.dumps([previous, at_ms, *covered]).encode()).hexdigest()


def pseudonym(key: bytes | None, value: str | bytes) -> str:
    """Return how a value that may identify a person is recorded: with key and value, the entry can be found."""
    if key is None:
        return NOT_RECORDED
    given = value.encode() if isinstance(value, str) else value
    return f"hmac-sha256:{hmac.new(key, given, hashlib.sha256).hexdigest()}"


def _recorded_filter(rows: RowFilter, key: bytes | None) -> str:
    given = {name: value for name, value in asdict(rows).items() if value not in (None, ())}
    return json.dumps({n: pseudonym(key, v) if n in PERSONAL else v for n, v in given.items()}, sort_keys=True)


class AuditHead:
    """Follows the last hash of the chain, for a log that nobody with write access to the table can change."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known = Head(0, FIRST_HASH)

    def read(self) -> HeadChange:
        """Read the last entry, and check that the one that was last before is still in the chain."""
        with transactions.read(self._engine) as connection:
            known = self._known
            known_hash = connection.execute(sql.HASH.on(connection), {"id": known.id}).scalar_one_or_none()
            last = connection.execute(sql.LAST.on(connection)).one_or_none()
        self._known = Head(last.id, last.hash) if last else Head(0, FIRST_HASH)
        return HeadChange(known, self._known, rewritten=bool(known.id) and known_hash != known.hash)


class VerbTotal(NamedTuple):
    """All changes of one kind."""

    verb: str
    """The first word of the entries' verb."""
    entries: int
    rows: int


class AuditTotals:
    """Counts all changes by verb; each read costs as much as there are new entries."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.restart()

    def restart(self) -> None:
        """Count from the first entry at the next read, because earlier entries have changed."""
        self._last_id = 0
        self._totals = dict.fromkeys(VERBS, (0, 0))

    def read(self) -> list[VerbTotal]:
        """Add the entries since the last read, and return the totals. After an error the next read goes on from there.

        A long audit trail is read page by page: one statement for all of it would take longer than it may.
        """
        while self._add_page() == PAGE_ENTRIES:
            pass
        return [VerbTotal(verb, *total) for verb, total in self._totals.items()]

    def _add_page(self) -> int:
        """Add the next entries, and return their number."""
        with transactions.read(self._engine) as connection:
            values = {"after": self._last_id, "limit": PAGE_ENTRIES}
            found = connection.execute(sql.TOTALS_OF_VERBS.on(connection), values).all()
        for row in found:
            verb = row.verb.partition(" ")[0]
            entries, rows = self._totals.get(verb, (0, 0))
            self._totals[verb] = entries + row.entries, rows + int(row.rows)
        self._last_id = max((row.last_id for row in found), default=self._last_id)
        return sum(row.entries for row in found)
