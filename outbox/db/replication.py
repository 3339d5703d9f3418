"""Logical replication on PostgreSQL: what can read the rows of the outbox out of the write-ahead log."""

from typing import NamedTuple

from sqlalchemy import Engine, text

from outbox.db import transactions

_SLOTS = text("""
    SELECT slot_name, plugin, active, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0) AS retained
    FROM pg_replication_slots
    WHERE slot_type = 'logical' AND database = current_database() ORDER BY slot_name
""")
_PUBLICATIONS = text("""
    SELECT p.pubname
    FROM pg_publication_tables AS t
    JOIN pg_publication AS p ON p.pubname = t.pubname AND p.pubinsert
    JOIN pg_namespace AS n ON n.nspname = t.schemaname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
    WHERE c.oid = to_regclass('outbox') ORDER BY p.pubname
""")
"""The view of published tables lists those of ``FOR ALL TABLES``, too."""


class Slot(NamedTuple):
    """A logical replication slot of the database."""

    name: str
    plugin: str
    active: bool
    """Whether a reader is connected."""
    retained_bytes: int
    """Write-ahead log that the server keeps for it; 0 if the server has given it up."""


class Replication(NamedTuple):
    """Slots of the database, and publications of the outbox. A slot does not show which ones its reader names."""

    slots: list[Slot]
    publications: list[str]
    """Those that publish inserted rows of the outbox."""


def inspect_replication(engine: Engine) -> Replication:
    """Read which logical slots the database has, and which publications have rows of the outbox; none on SQLite.

    Raises:
        DatabaseUnavailableError: also on a standby, and without the rights that every role has by default.
    """
    if engine.dialect.name != "postgresql":
        return Replication([], [])
    with transactions.read(engine) as connection:
        publications = list(connection.execute(_PUBLICATIONS).scalars())
        slots = [Slot(row.slot_name, row.plugin, row.active, int(row.retained)) for row in connection.execute(_SLOTS)]
    return Replication(slots, publications)
