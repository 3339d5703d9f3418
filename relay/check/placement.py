"""The rows: each has exactly one state."""

from sqlalchemy import Engine

from outbox.errors import OutboxError
from outbox.operators.placement import misplaced_ids
from relay.check.finding import Finding, failure, ok, unknown

NEWEST_ROWS = 1_000_000
"""How many of the newest rows are checked, which takes seconds."""
SAMPLE_ROWS = 5


def check_placement(engine: Engine) -> Finding:
    """Check that the id of each row is in exactly one of the tables of pending, sent and parked rows."""
    try:
        found = misplaced_ids(engine, NEWEST_ROWS)
    except OutboxError as error:  # after 20 s, if many million rows are pending
        return unknown("rows", str(error), "check again when the database answers, or when fewer rows are pending")
    if not found:
        return ok("rows", f"each of the newest {NEWEST_ROWS:,} has one state, and so has every pending and parked one")
    sample = ", ".join(map(str, found[:SAMPLE_ROWS]))
    remedy = (
        "stop the relays, and find out who changed outbox_pending, outbox_sent or outbox_parked by hand, or restored "
        "them apart from each other; restore all tables of the outbox from one backup"
    )
    seen = f"{len(found):,} ids are in none of the tables of states, in two, or without a fitting row: {sample}"
    return failure("rows", seen, remedy)
