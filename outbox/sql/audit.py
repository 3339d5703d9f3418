"""The SQL of the audit log."""

from outbox.sql.statement import statement

_LOCK = 0x6F757462_6F780003
"""Advisory lock of the audit log ("outbox", 3). A lock on the table would need the right to change entries."""
LOCK = statement(postgresql=f"SELECT pg_advisory_xact_lock({_LOCK})", sqlite="SELECT 1")
"""Lets one transaction at a time extend the chain; on SQLite ``BEGIN IMMEDIATE`` has locked the database."""

ADD = statement(
    postgresql="""
    WITH entry AS (
        INSERT INTO outbox_audit (at, actor, verb, filter, reason, row_ids, hash, os_user)
        VALUES (:at, :actor, :verb, :filter, :reason, :row_ids, :hash, :os_user)
        RETURNING id, row_ids
    ),
    listed AS (
        INSERT INTO outbox_audit_row (row_id, entry_id)
        SELECT DISTINCT CAST(r.row_id AS bigint), entry.id
        FROM entry, json_array_elements_text(CAST(entry.row_ids AS json)) AS r(row_id)
    )
    SELECT id FROM entry
    """,
    sqlite="""
    INSERT INTO outbox_audit (at, actor, verb, filter, reason, row_ids, hash, os_user)
    VALUES (:at, :actor, :verb, :filter, :reason, :row_ids, :hash, :os_user)
    RETURNING id
    """,
)
"""Adds an entry and returns its id; its rows are listed in ``outbox_audit_row``, on SQLite by a trigger. Needs
``LOCK``."""
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
ENTRIES_OF_ROW = statement("""
    SELECT a.id, a.at, a.actor, a.verb, a.filter, a.reason, a.row_ids, a.hash, a.os_user
    FROM outbox_audit_row AS r JOIN outbox_audit AS a ON a.id = r.entry_id
    WHERE r.row_id = :row_id AND r.entry_id > :after ORDER BY r.entry_id LIMIT :limit
""")
"""A page of the entries that concern a row."""
SPAN_OF_VERB = statement("SELECT min(id), max(id), max(at) FROM outbox_audit WHERE verb = :verb")
"""The first and the last entry of a verb, and the time of the last."""
TOTALS_OF_VERBS = statement(
    postgresql="""
    SELECT verb, count(*) AS entries, sum(json_array_length(CAST(row_ids AS json))) AS rows, max(id) AS last_id
    FROM (SELECT id, verb, row_ids FROM outbox_audit WHERE id > :after ORDER BY id LIMIT :limit) AS page GROUP BY verb
    """,
    sqlite="""
    SELECT verb, count(*) AS entries, sum(json_array_length(row_ids)) AS rows, max(id) AS last_id
    FROM (SELECT id, verb, row_ids FROM outbox_audit WHERE id > :after ORDER BY id LIMIT :limit) AS page GROUP BY verb
    """,
)
"""Entries of each verb in the page after an entry, and how many rows they list."""
ROWS_WITH_VERB = statement(
    postgresql="""
    SELECT DISTINCT r.row_id FROM outbox_audit_row AS r JOIN outbox_audit AS a ON a.id = r.entry_id
    WHERE r.row_id = ANY(CAST(:ids AS bigint[])) AND a.verb = :verb
    """,
    sqlite="""
    SELECT DISTINCT r.row_id FROM outbox_audit_row AS r JOIN outbox_audit AS a ON a.id = r.entry_id
    WHERE r.row_id IN (SELECT value FROM json_each(:ids)) AND a.verb = :verb
    """,
)
"""Those of some rows that have an entry of a verb."""
ROW_IDS_OF_VERB = statement("SELECT row_ids FROM outbox_audit WHERE verb = :verb ORDER BY id")
"""The rows of each entry of a verb."""
