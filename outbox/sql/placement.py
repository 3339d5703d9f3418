"""The SQL that finds ids which are not in exactly one of the tables of states."""

from outbox.sql.statement import statement

MISPLACED = statement("""
    SELECT o.id
    FROM outbox_identity AS i
    CROSS JOIN outbox AS o
    LEFT JOIN (SELECT shard, id, nonce FROM outbox_pending WHERE id > :after AND id <= :last) AS w
      ON w.shard = o.interaction_hash % i.shards AND w.id = o.id AND w.nonce = o.nonce
    LEFT JOIN (SELECT id FROM outbox_sent WHERE id > :after AND id <= :last) AS s ON s.id = o.id
    LEFT JOIN (SELECT id, nonce FROM outbox_parked WHERE id > :after AND id <= :last) AS p
      ON p.id = o.id AND p.nonce = o.nonce
    WHERE o.id > :after AND o.id <= :last
      AND CASE WHEN w.id IS NULL THEN 0 ELSE 1 END
        + CASE WHEN s.id IS NULL THEN 0 ELSE 1 END
        + CASE WHEN p.id IS NULL THEN 0 ELSE 1 END <> 1
""")
"""Of the rows between two ids, those that are in no table, or in two."""

UNKNOWN_SENT = statement("""
    SELECT s.id FROM outbox_sent AS s
    WHERE s.id > :after AND s.id <= :last AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.id = s.id)
""")
"""The ids between two that are marked sent, but have no row."""

UNKNOWN_UNSENT = statement("""
    SELECT w.id FROM outbox_pending AS w CROSS JOIN outbox_identity AS i
    WHERE (
        SELECT o.id FROM outbox AS o
        WHERE o.id = w.id AND o.nonce = w.nonce AND w.shard = o.interaction_hash % i.shards
    ) IS NULL
    UNION ALL
    SELECT p.id FROM outbox_parked AS p CROSS JOIN outbox_identity AS i
    WHERE (
        SELECT o.id FROM outbox AS o
        WHERE o.id = p.id AND o.nonce = p.nonce AND p.shard = o.interaction_hash % i.shards
    ) IS NULL
""")
"""Pending and parked ids without a row, with another row's nonce, or in a shard that is not their interaction's."""
