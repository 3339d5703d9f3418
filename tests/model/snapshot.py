"""A snapshot of an outbox's database, to restore it from."""

from typing import Any

from sqlalchemy import Connection, Engine, text

from outbox.db.schema import metadata

TABLES = metadata.sorted_tables


class DatabaseSnapshot:
    """The rows of the outbox's tables, and the next ids, as they are now."""

    def __init__(self, engine: Engine) -> None:
        with engine.begin() as connection:
            self._rows = {
                table.name: [dict(row._mapping) for row in connection.execute(table.select())] for table in TABLES
            }
            self._next_ids = _next_ids(connection)

    def restore(self, engine: Engine) -> None:
        """Restore the rows and the next ids, even while the database is in use."""
        with engine.begin() as connection:
            for table in TABLES:
                connection.execute(table.delete())
            for table in TABLES:  # outbox first: without an identity, SQLite's trigger makes no row pending
                if rows := self._rows[table.name]:
                    connection.execute(table.insert(), rows)
            for statement in self._next_ids:
                connection.execute(*statement)


BoundStatement = tuple[Any, ...]


def _next_ids(connection: Connection) -> list[BoundStatement]:
    """Statements that make the database continue with the present ids."""
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("SELECT name, seq FROM sqlite_sequence")).all()
        insert = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)")
        return [(text("DELETE FROM sqlite_sequence"),), *((insert, dict(row._mapping)) for row in found)]
    statements: list[BoundStatement] = []
    for (name,) in connection.execute(text("SELECT sequencename FROM pg_sequences")).all():
        last = connection.execute(text(f'SELECT last_value, is_called FROM "{name}"')).one()
        values = {"name": name, "last": last.last_value, "called": last.is_called}
        statements.append((text("SELECT setval(CAST(:name AS text), :last, :called)"), values))
    return statements
