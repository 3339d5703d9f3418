"""One statement for two databases, and the form in which lists of values reach it.

Where a statement needs the time, it reads the database's own clock, in milliseconds since the epoch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, TextClause, text


class Statement(NamedTuple):
    """A statement, as each database runs it."""

    postgresql: TextClause
    sqlite: TextClause

    def on(self, connection: Connection) -> TextClause:
        """Return the variant for this connection's database."""
        return self.postgresql if _is_postgresql(connection) else self.sqlite


def statement(both: str = "", *, postgresql: str = "", sqlite: str = "") -> Statement:
    """Build a statement from one text for both databases, or from one text for each."""
    return Statement(text(postgresql or both), text(sqlite or both))


class Move(NamedTuple):
    """Moves rows from one table to another, so that an id is always in exactly one.

    On PostgreSQL one statement deletes and inserts. SQLite has no such statement: in the caller's transaction, the
    first one inserts, the others delete what it inserted.
    """

    postgresql: TextClause
    sqlite: tuple[TextClause, ...]

    def run(self, connection: Connection, values: Mapping[str, object]) -> CursorResult[Any]:
        """Move rows; return the result of the insert, whose ``rowcount`` is the number of rows moved."""
        if _is_postgresql(connection):
            return connection.execute(self.postgresql, values)
        insert, *deletes = self.sqlite
        moved = connection.execute(insert, values)
        for delete in deletes:
            connection.execute(delete, values)
        return moved


def move(*, postgresql: str, sqlite: Sequence[str]) -> Move:
    """Build a move."""
    return Move(text(postgresql), tuple(map(text, sqlite)))


def bind_numbers(connection: Connection, numbers: Iterable[int]) -> str:
    """Return numbers as one text, which both databases read faster than a list of parameters.

    Returns:
        An array literal for PostgreSQL, a JSON list for SQLite.
    """
    listed = ",".join(map(str, numbers))
    return f"{{{listed}}}" if _is_postgresql(connection) else f"[{listed}]"


def bind_texts(connection: Connection, texts: Sequence[str]) -> list[str] | str:
    """Return texts as an array for PostgreSQL, as a JSON list for SQLite."""
    return list(texts) if _is_postgresql(connection) else json.dumps(texts)


def bind_rows(connection: Connection, names: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, object]:
    """Return the parameters that pass rows of values to a statement.

    Args:
        names: of the columns.
        rows: their values, in the order of the names.

    Returns:
        For PostgreSQL an array for each name, for SQLite ``rows``: a JSON list of lists.
    """
    if not _is_postgresql(connection):
        return {"rows": json.dumps(rows)}
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def _is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"
