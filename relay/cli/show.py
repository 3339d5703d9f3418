"""``relay show``: everything known about one row."""

import json
import os
import sys
from typing import Any

import click

from outbox.operators.format import escape
from outbox.operators.row_history import PersonalValues, RowContent, RowHistories, RowHistory, StoredRow
from outbox.operators.rows import RowFilter
from outbox.store import Store
from relay.cli.history_text import format_history
from relay.cli.options import ACTOR, JSON, ChangeOptions
from relay.cli.output import ExitCode, exit_nothing_matched, to_json
from relay.cli.param_types import ReasonParam, RowIdParam
from relay.cli.session import audit_context, open_outbox
from relay.kafka.row_verification import KafkaRecord, look_up_record, topic_agrees
from relay.operator_settings import OperatorSettings

MASK = "***"
NOT_PRINTED = ("has_customer", "has_agent")


@click.command()
@click.argument("row_id", metavar="ID", type=RowIdParam())
@click.option("--verify", is_flag=True, help="Compare the row with its record in Kafka; exit code 4 if they differ.")
@click.option("--reveal", is_flag=True, help="Show payload and personal values; audited, so it requires --reason.")
@click.option("--reason", type=ReasonParam(), help="Why, for the audit log; required with --reveal.")
@ACTOR
@JSON
def show(*, row_id: int, verify: bool, reveal: bool, reason: str | None, actor: str | None, json_lines: bool) -> None:
    """Show everything known about one row.

    When it was received and sent, its record in Kafka, its inference call, what blocks it, its replays,
    and who changed it. Personal values are masked. If Kafka is unavailable, the record is "not looked up".

    \b
    Examples:
      relay show 4711 --verify
      relay show 4711 --reveal --reason "the customer asks what we store"
    """
    if reveal and reason is None:
        raise click.UsageError("--reveal is audited: give --reason")
    content = None
    with open_outbox(OperatorSettings) as (engine, settings):
        histories = RowHistories(engine)
        if reveal:
            context = audit_context(ChangeOptions(reason or "", actor), settings, RowFilter(ids=(row_id,)))
            content = histories.reveal(row_id, context)
        history, identity = histories.get(row_id), Store(engine).identity()
        personal = histories.personal_values(row_id) if verify else None
    if history is None:
        exit_nothing_matched(f"the outbox has no row {row_id}")
    kafka = look_up_record(os.environ, history.row, identity, personal)
    if json_lines:
        click.echo(to_json(_json_fields(history, kafka, content)))
    else:
        for line in format_history(history, kafka, content):
            click.echo(escape(line))
    sys.exit(_exit_code(history, kafka) if verify else ExitCode.DONE)


def _exit_code(history: RowHistory, kafka: KafkaRecord) -> ExitCode:
    agrees = topic_agrees(history.row, kafka)
    if agrees is None:
        return ExitCode.FAILED
    return ExitCode.DONE if agrees else ExitCode.CHECK_FAILED


def _json_fields(history: RowHistory, kafka: KafkaRecord, content: RowContent | None) -> dict[str, Any]:
    row, record = history.row, kafka._asdict()
    personal = PersonalValues(MASK if row.has_customer else None, MASK if row.has_agent else None)
    if content is None:
        record["differences"] = None if kafka.differences is None else sorted(kafka.differences)
    else:
        personal = PersonalValues(content.customer_email, content.agent_id)
    return {
        **{name: value for name, value in row._asdict().items() if name not in NOT_PRINTED},
        **personal._asdict(),
        "payload": _payload(row, content),
        "kafka": record,
        "inference": history.call._asdict() if history.call else None,
        "ahead": history.ahead,
        "waits_for": history.parked_before,
        "behind": history.behind,
        "originals": [link._asdict() for link in history.originals],
        "replays": [link._asdict() for link in history.replays],
        "audit": [{**entry._asdict(), "row_ids": json.loads(entry.row_ids)} for entry in history.audit],
    }


def _payload(row: StoredRow, content: RowContent | None) -> str | None:
    """Return the payload, its mask, or None if it was erased."""
    if not row.payload_bytes:
        return None
    return MASK if content is None else content.payload.decode(errors="replace")
