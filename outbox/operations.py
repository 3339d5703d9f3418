"""The verbs of operators: find rows, repair those that are parked, send rows again; each change goes on record.

A change names rows by id, tag and from-state and runs under the shard's lock, so it is safe while
relays run, and what changed since the operator looked is left alone. Its audit entry is written in
the same transaction.
"""

import hashlib
import hmac
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from zlib import crc32

from sqlalchemy import Connection, Engine

from outbox import statements as sql
from outbox import transactions
from outbox.rows import AuditEntry, ErrorGroup, FoundRow, Order, Ref, RowFilter, new_tag

PAGE_ROWS = 1000
FIRST_HASH = ""
"""What the first audit entry follows."""


class Operations:
    """What operators do to one outbox.

    Args:
        engine: of the outbox.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, wanted: RowFilter) -> Iterator[FoundRow]:
        """Every row that the filter names, in id order, a page at a time."""
        given = {name: value for name, value in asdict(wanted).items() if value not in (None, ())}
        state = given.pop("state", None)
        query = sql.find([*given, *([f"state {state}"] if state else [])])
        page: list[FoundRow] = []
        while True:
            with transactions.read(self._engine) as connection:
                values = {**given, "after": page[-1].id if page else -(2**63), "limit": PAGE_ROWS}
                if "ids" in given:
                    values["ids"] = sql.bind_list(connection, list(given["ids"]))
                page = [FoundRow._make(row) for row in connection.execute(query.on(connection), values)]
            yield from page
            if len(page) < PAGE_ROWS:
                return

    def count_behind(self, ids: Sequence[int]) -> int:
        """How many pending rows wait behind these parked ones."""
        with transactions.read(self._engine) as connection:
            values = {"ids": sql.bind_list(connection, list(ids))}
            return int(connection.execute(sql.COUNT_BEHIND.on(connection), values).scalar_one())

    def parked_by_error(self) -> list[ErrorGroup]:
        """Parked rows, grouped by what their errors have in common; the largest group first."""
        groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
        with transactions.read(self._engine) as connection:
            for error, rows, oldest in connection.execute(sql.PARKED_ERRORS.on(connection)):
                groups[re.sub(r"\d+", "#", error)].append((rows, oldest))
        found = [ErrorGroup(e, sum(r for r, _ in parts), min(o for _, o in parts)) for e, parts in groups.items()]
        return sorted(found, key=lambda group: -group.rows)

    def retry(self, rows: Sequence[FoundRow], order: Order) -> list[int]:
        """Make parked rows pending again: they are sent before what waits behind them.

        Returns:
            Ids of those that were still parked, and are pending now.
        """
        return self._leave_parked("retry", sql.RETRY, rows, order)

    def discard(self, rows: Sequence[FoundRow], order: Order) -> list[int]:
        """Decide that parked rows are not sent: what waits behind them goes on.

        Returns:
            Ids of those that were still parked, and are discarded now.
        """
        return self._leave_parked("discard", sql.DISCARD, rows, order)

    def replay(self, plan: str, rows: Sequence[FoundRow], order: Order) -> list[int]:
        """Send rows again that are sent or discarded: as new rows, in the old order, marked ``replay_of``.

        Args:
            plan: names this replay; a row is replayed once by a plan, however often it is given.
            rows: in id order.
            order: who, and why.

        Returns:
            Ids of the rows that are replayed by this call.
        """
        values = [(row.id, row.tag, new_tag(), crc32(row.interaction_id.encode())) for row in rows]
        with transactions.write(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                columns = zip(*values, strict=True)
                bound: dict[str, object] = dict(
                    zip(("ids", "tags", "new_tags", "crcs"), map(list, columns), strict=True)
                )
            else:
                bound = {"rows": json.dumps(values)}
            replayed = list(
                connection.execute(sql.REPLAY.on(connection), {"prefix": f"replay:{plan}:", **bound}).scalars()
            )
            if replayed:
                _add_audit(connection, f"replay {plan}", order, sorted(replayed))
        return sorted(replayed)

    def audit(self) -> Iterator[AuditEntry]:
        """Every entry, oldest first."""
        after = 0
        while True:
            with transactions.read(self._engine) as connection:
                values = {"after": after, "limit": PAGE_ROWS}
                page = [AuditEntry._make(row) for row in connection.execute(sql.AUDIT.on(connection), values)]
            yield from page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].id

    def first_broken_entry(self) -> AuditEntry | None:
        """The first audit entry whose hash does not follow from it and the one before; None: all is whole."""
        previous = FIRST_HASH
        for entry in self.audit():
            if entry.hash != chained(previous, entry.at_ms, entry[2:7]):
                return entry
            previous = entry.hash
        return None

    def _leave_parked(self, verb: str, query: sql.Statement, rows: Sequence[FoundRow], order: Order) -> list[int]:
        by_shard: dict[int, list[Ref]] = defaultdict(list)
        for row in rows:
            by_shard[row.shard].append(row.ref)
        changed: list[int] = []
        with transactions.write(self._engine) as connection:
            for shard, refs in sorted(by_shard.items()):  # in order, so that two operators never wait in a circle
                connection.execute(sql.LOCK_SHARD.on(connection), {"shard": shard})
                values = {"shard": shard, **sql.bind_refs(connection, refs)}
                changed += connection.execute(query.on(connection), values).scalars()
            if changed:
                _add_audit(connection, verb, order, sorted(changed))
        return sorted(changed)


def chained(previous: str, at_ms: int, told: Sequence[str]) -> str:
    """The hash of an audit entry: SHA-256 over the hash before it, its time and its texts."""
    return hashlib.sha256(json.dumps([previous, at_ms, *told]).encode()).hexdigest()


def _add_audit(connection: Connection, verb: str, order: Order, ids: list[int]) -> None:
    connection.execute(sql.LOCK_AUDIT.on(connection))
    previous = connection.execute(sql.LAST_AUDIT.on(connection)).scalar_one_or_none() or FIRST_HASH
    at_ms = int(connection.execute(sql.NOW.on(connection)).scalar_one())
    key = str(connection.execute(sql.IDENTITY.on(connection)).one().outbox_id)
    told = (order.actor, verb, _filter_on_record(order.rows, key), order.reason, json.dumps(ids))
    names = ("actor", "verb", "filter", "reason", "row_ids")
    values = {"at": at_ms, **dict(zip(names, told, strict=True)), "hash": chained(previous, at_ms, told)}
    connection.execute(sql.ADD_AUDIT.on(connection), values)


def _filter_on_record(rows: RowFilter, key: str) -> str:
    """The filter as JSON; an interaction may name a person, so it goes on record as a keyed hash."""
    given = {name: value for name, value in asdict(rows).items() if value not in (None, ())}
    if rows.interaction_id is not None:
        digest = hmac.new(key.encode(), rows.interaction_id.encode(), hashlib.sha256).hexdigest()
        given["interaction_id"] = f"hmac-sha256:{digest}"
    return json.dumps(given, sort_keys=True)
