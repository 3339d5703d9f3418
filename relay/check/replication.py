"""Change data capture: nothing but the relay sends the rows of the outbox."""

from sqlalchemy import Engine

from outbox.db.replication import Replication, Slot, inspect_replication
from outbox.errors import OutboxError
from relay.check.finding import Finding, ok, unknown, warning

SUBJECT = "change data capture"
PGOUTPUT = "pgoutput"
"""The plugin whose readers name publications. The others read every table."""
NEVER_BOTH = (
    "if its reader sends interactions to Kafka, as docs/change-data-capture.md describes, stop it before a relay is "
    "started: both together send every interaction twice; a reader that copies or audits the database does no harm"
)
DROP_SLOT = (
    "start its reader, or, if there is none any more, SELECT pg_drop_replication_slot('{slot}'): the log that it "
    "retains fills the server's disk"
)
GRANT = "grant this role SELECT on pg_replication_slots and pg_publication_tables, or have an administrator look there"


def check_replication(engine: Engine) -> list[Finding]:
    """Check for replication slots through which another program can read the rows of the outbox."""
    if engine.dialect.name != "postgresql":
        return []
    try:
        return judge_replication(inspect_replication(engine))
    except OutboxError as error:
        return [unknown(SUBJECT, f"replication slots could not be read: {error}", GRANT)]


def judge_replication(found: Replication) -> list[Finding]:
    """Warn of each slot whose reader can get the rows of the outbox."""
    able = [slot for slot in found.slots if found.publications or slot.plugin != PGOUTPUT]
    if not able:
        return [ok(SUBJECT, "no logical replication slot of this database can read the outbox")]
    return [_judge(slot, found.publications) for slot in able]


def _judge(slot: Slot, publications: list[str]) -> Finding:
    named = f"publication {', '.join(publications)}"
    through = named if slot.plugin == PGOUTPUT else "which needs no publication"
    detail = f"slot {slot.name} ({slot.plugin}, {through}) can read the outbox"
    if slot.active:
        return warning(SUBJECT, f"{detail}, and its reader is connected", NEVER_BOTH)
    retained = f"{slot.retained_bytes / 1e6:,.0f} MB of write-ahead log are retained for it"
    return warning(SUBJECT, f"{detail}; its reader is not connected, {retained}", DROP_SLOT.format(slot=slot.name))
