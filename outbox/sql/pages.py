"""The SQL that reads pages for a reader who sees the newest first, and groups what is parked by its error.

A page begins below an id, so its cost does not follow the number of rows above it.
"""

from sqlalchemy import text

from outbox.sql.rows import SENT, SOURCES, Condition
from outbox.sql.statement import Statement, statement
from outbox.states import RowState

_ROW = """o.id, o.nonce, o.shard, o.state, o.interaction_id, o.channel, o.received_at, o.sent_at, o.replay_of,
                   o.error, o.topic, coalesce(o.changed_at, 0)"""


def select_rows_down(condition: Condition, state: RowState | None = None) -> Statement:
    """Select the rows, of a state or of all, between two ids that meet a condition, the newest first."""
    return Statement(
        *(
            text(f"""
            SELECT {_ROW}
            FROM {SOURCES[state]} AS o
            WHERE o.id > :first AND o.id < :before AND {where}
            ORDER BY o.id DESC LIMIT :limit
            """)
            for where in condition
        )
    )


def select_few_rows_down(condition: Condition) -> Statement:
    """Select the same of all rows for a condition that an index serves.

    ``+ 0`` keeps every plan from walking down the ids until the limit is reached, which reads all of history where
    fewer rows match.
    """
    return Statement(
        *(
            text(f"""
            SELECT {_ROW}
            FROM outbox_rows AS o
            WHERE o.id + 0 > :first AND o.id + 0 < :before AND {where}
            ORDER BY o.id + 0 DESC LIMIT :limit
            """)
            for where in condition
        )
    )


def select_parked_calls_down(condition: Condition) -> Statement:
    """Select the rows whose call is parked, with the call's state, error and time of parking, the newest first."""
    return Statement(
        *(
            text(f"""
            SELECT o.id, o.nonce, o.shard, c.state, o.interaction_id, o.channel, o.received_at, o.sent_at, o.replay_of,
                   c.error, o.topic, c.due_at
            FROM outbox_inference_call AS c JOIN {SOURCES[SENT]} AS o ON o.id = c.row_id
            WHERE c.state = 'parked' AND c.row_id > :first AND c.row_id < :before AND {where}
            ORDER BY c.row_id DESC LIMIT :limit
            """)
            for where in condition
        )
    )


CUSTOMER = statement("SELECT customer_email FROM outbox WHERE id = :id")
"""The customer's address of a row."""
IDS_OF_CUSTOMER = statement("""
    SELECT id FROM outbox
    WHERE id > :first AND id < :before AND lower(customer_email) = lower(:email) ORDER BY id DESC LIMIT :limit
""")
"""The rows between two ids whose customer has an address, the newest first. No index has addresses."""

COUNT_BEHIND_ERRORS = statement(
    postgresql="""
    SELECT f.number, CAST(coalesce(sum((
        SELECT count((SELECT w.id FROM outbox_pending AS w WHERE w.shard = f.shard AND w.id = r.id))
        FROM outbox AS r WHERE r.interaction_id = f.interaction_id AND r.id + 0 > f.id
    )), 0) AS bigint) AS waiting
    FROM (
        SELECT g.number, p.shard, p.interaction_id, min(p.id) AS id
        FROM unnest(CAST(:error AS text[]), CAST(:number AS integer[])) AS g(error, number)
        JOIN outbox_parked AS p ON p.error = g.error
        WHERE p.state = 'parked' GROUP BY g.number, p.shard, p.interaction_id
    ) AS f GROUP BY f.number
    """,
    sqlite="""
    SELECT f.number, coalesce(sum((
        SELECT count((SELECT w.id FROM outbox_pending AS w WHERE w.shard = f.shard AND w.id = r.id))
        FROM outbox AS r WHERE r.interaction_id = f.interaction_id AND r.id + 0 > f.id
    )), 0) AS waiting
    FROM (
        SELECT g.number, p.shard, p.interaction_id, min(p.id) AS id
        FROM outbox_parked AS p
        JOIN (SELECT value ->> 0 AS error, value ->> 1 AS number FROM json_each(:rows)) AS g ON g.error = p.error
        WHERE p.state = 'parked' GROUP BY g.number, p.shard, p.interaction_id
    ) AS f GROUP BY f.number
    """,
)
"""Counts the pending rows behind the first row of their interaction that is parked with an error of a group, for each
group: ``error`` and ``number`` say which errors belong to which."""

PARKED_CALLS_BY_ERROR = statement(
    postgresql="""
    SELECT error, count(*) AS rows, min(due_at) AS oldest,
           CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) AS now
    FROM outbox_inference_call
    WHERE state = 'parked' AND strpos(lower(error), lower(CAST(:error AS text))) > 0 GROUP BY error
    """,
    sqlite="""
    SELECT error, count(*) AS rows, min(due_at) AS oldest,
           CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now
    FROM outbox_inference_call
    WHERE state = 'parked' AND instr(lower(error), lower(:error)) > 0 GROUP BY error
    """,
)
"""Counts the parked calls whose error contains a text, by their error, with the time of the first and the time now."""
