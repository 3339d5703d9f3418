"""Finding a person's rows by an address, however a body spells it.

SQL chooses the rows that may hold it, and leaves none out: JSON can write any character as an escape, and
letters beyond ASCII have other cases than a database knows. Whether a chosen row does, is decided here.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice

from sqlalchemy import Engine

from outbox.db import transactions
from outbox.models import FoundRow
from outbox.sql import flow
from outbox.sql import operators as sql

READ_ROWS = 100
"""Bodies read at a time: each may have a mebibyte."""


def holding(engine: Engine, rows: Iterable[FoundRow], email: str) -> Iterator[FoundRow]:
    """Of these rows, those whose customer has the address, or whose body holds it anywhere."""
    remaining = iter(rows)
    while page := list(islice(remaining, READ_ROWS)):
        with transactions.read(engine) as connection:
            ids = flow.bind_list(connection, [row.id for row in page])
            contents = connection.execute(sql.CONTENTS.on(connection), {"ids": ids}).all()
        found = {row.id for row in contents if holds(email, row.customer_email, bytes(row.payload))}
        yield from (row for row in page if row.id in found)


def holds(email: str, customer_email: str | None, payload: bytes) -> bool:
    """Whether a row is about this address: upper and lower case, escapes and compatible characters alike."""
    return folded(customer_email or "") == folded(email) or _inside(email) in folded(_unescaped(payload))


def folded(text: str) -> str:
    """Text without differences of case and of compatible characters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _unescaped(payload: bytes) -> str:
    text = payload.decode("utf-8-sig", "replace")
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):  # erased, or from elsewhere
        return text


def _inside(email: str) -> str:
    """The address as it stands inside of a JSON string that escapes nothing it need not."""
    return folded(json.dumps(email, ensure_ascii=False)[1:-1])
