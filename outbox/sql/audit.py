"""The SQL of the audit log."""

from outbox.sql.statement import statement

_LOCK = 0x6F757462_6F780003
"""Advisory lock of the audit log ("outbox", 3). A lock on the table would need the right to change entries."""
LOCK = statement(postgresql=f"SELECT pg_advisory_xact_lock({_LOCK})", sqlite="SELECT 1")
"""Lets one transaction at a time extend the chain; on SQLite ``BEGIN IMMEDIATE`` has locked the database."""

ADD = statement("""
    INSERT INTO outbox_audit (at, actor, verb, filter, reason, row_ids, hash, os_user)
    VALUES (:at, :actor, :verb, :filter, :reason, :row_ids, :hash, :os_user)
""")
"""Adds an entry. Needs ``LOCK``."""
LAST = statement("SELECT id, hash FROM outbox_audit ORDER BY id DESC LIMIT 1")
"""The last entry of the chain."""
HASH = statement("SELECT hash FROM outbox_audit WHERE id = :id")
"""The hash of an entry."""

ENTRIES = statement("""
    SELECT id, at, actor, verb, filter, reason, row_ids, hash, os_user FROM outbox_audit
    WHERE id > :after ORDER BY id LIMIT :limit
""")
"""A page of entries."""
ENTRIES_DOWN = statement("""
    SELECT id, at, actor, verb, filter, reason, row_ids, hash, os_user FROM outbox_audit
    WHERE id < :before ORDER BY id DESC LIMIT :limit
""")
"""A page of entries, the newest first."""
ENTRIES_OF_ROW = statement(
    postgresql="""
    SELECT id, at, actor, verb, filter, reason, row_ids, hash, os_user FROM outbox_audit
    WHERE id > :after AND CAST(row_ids AS jsonb) @> to_jsonb(CAST(:row_id AS bigint)) ORDER BY id LIMIT :limit
    """,
    sqlite="""
    SELECT id, at, actor, verb, filter, reason, row_ids, hash, os_user FROM outbox_audit
    WHERE id > :after AND :row_id IN (SELECT value FROM json_each(row_ids)) ORDER BY id LIMIT :limit
    """,
)
"""A page of the entries that concern a row."""
SPAN_OF_VERB = statement("SELECT min(id), max(id), max(at) FROM outbox_audit WHERE verb = :verb")
"""The first and the last entry of a verb, and the time of the last."""
ROW_IDS_OF_VERB = statement("SELECT row_ids FROM outbox_audit WHERE verb = :verb ORDER BY id")
"""The rows of each entry of a verb."""
