"""``relay show``: one row's whole life."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from config.settings import SettingsError, load
from outbox.errors import OutboxMismatchError
from outbox.models import Identity
from outbox.operators.audit import AuditContext
from outbox.operators.row_history import RowHistories, RowHistory, StoredRow
from outbox.operators.rows import RowFilter
from outbox.states import CallState, RowState
from outbox.store import Store
from relay.cli.options import (
    ACTOR,
    CHECK_FAILED,
    DONE,
    FAILED,
    JSON,
    OperatorSettings,
    Reason,
    RowId,
    nothing_matched,
    outbox_of,
    who_acts,
)
from relay.cli.output import escaped, to_json, told_actor, told_time
from relay.errors import MisconfiguredError, UnavailableError
from relay.settings import RelaySettings, kafka_client_config

MASKED = "***"
PERSONAL = ("customer_email", "agent_id")


class Looked(NamedTuple):
    """What was seen of the row in Kafka."""

    transactional_id: str | None = None
    record: dict[str, Any] | None = None
    """Partition, offset, time and headers; None: not seen."""
    not_seen: str | None = None
    """Why there is no record."""
    looked_up: bool = False
    """Whether the search was complete."""
    differences: dict[str, tuple[Any, Any]] | None = None
    """None: not compared."""
    not_compared: str | None = None


@click.command()
@click.argument("row_id", metavar="ID", type=RowId())
@click.option("--verify", is_flag=True, help="Compare the record in Kafka with the row; exit code 4 if different.")
@click.option("--reveal", is_flag=True, help="Show payload and personal values; needs --reason, for the audit.")
@click.option("--reason", type=Reason(), help="Why, for the audit; needed with --reveal.")
@ACTOR
@JSON
def show(*, row_id: int, verify: bool, reveal: bool, reason: str | None, actor: str | None, json_lines: bool) -> None:
    """Show everything known about one row.

    When it was received and sent, its record in Kafka, its inference call, what it waits for, its replays,
    and who changed it. Personal values are masked. Where Kafka cannot be reached, the record is "not looked up".

    \b
    Examples:
      relay show 4711 --verify
      relay show 4711 --reveal --reason "the customer asks what we hold"
    """
    if reveal and reason is None:
        raise click.UsageError("--reveal goes into the audit: give --reason")
    payload = None
    with outbox_of(OperatorSettings) as (engine, settings):
        lookup = RowHistories(engine)
        if reveal:
            asked = RowFilter(ids=(row_id,))
            context = AuditContext(who_acts(actor, settings), reason or "", asked, settings.pseudonym_key)
            payload = lookup.reveal(row_id, context)
        life, identity = lookup.get(row_id), Store(engine).identity()
    if life is None:
        nothing_matched(f"the outbox holds no row {row_id}")
    looked = _look_up(life.row, identity, compare=verify)
    if json_lines:
        click.echo(to_json(_as_json(life, looked, payload)))
    else:
        for line in _told(life, looked, payload):
            click.echo(escaped(line))
    sys.exit(_verdict(life, looked) if verify else DONE)


# In Kafka ------------------------------------------------------------------------------------------


def _look_up(row: StoredRow, identity: Identity, *, compare: bool) -> Looked:
    try:
        settings = load(RelaySettings, os.environ)
    except SettingsError as error:
        return Looked(not_seen=f"not looked up: {error}".replace("\n", "; "))
    from relay.identity import ensure_same_identity
    from relay.kafka import record_lookup
    from relay.kafka.schema_registry import Registry
    from relay.kafka.shard_clients import transactional_id
    from relay.kafka.topics import cluster_of

    producer = transactional_id(settings.kafka_transactional_id_prefix, row.shard)
    topic = row.topic or settings.kafka_topic
    try:
        ensure_same_identity(settings, identity)  # first what needs no broker
        ensure_same_identity(settings, identity, cluster_of(settings))
        sighted, records = record_lookup.find(kafka_client_config(settings), topic, row)
    except (UnavailableError, MisconfiguredError, OutboxMismatchError) as error:
        return Looked(producer, not_seen=f"not looked up: {error}")
    if sighted is None:
        told = f"not in {topic}: looked at {records} record(s) since it was received"
        return Looked(producer, not_seen=told, looked_up=True)
    record = {"topic": topic, **sighted._asdict(), "value": f"{len(sighted.value)} bytes"}
    looked = Looked(producer, {**record, "key": sighted.key.decode(errors="replace")}, looked_up=True)
    if not compare:
        return looked
    try:
        return looked._replace(differences=record_lookup.compare_record(SchemaRegistry(settings), row, sighted))
    except UnavailableError as error:
        return looked._replace(not_compared=str(error))


def _verdict(life: RowHistory, looked: Looked) -> int:
    """Exit code of ``--verify``: the topic must hold the row, as it is, if and only if it is marked sent."""
    if not looked.looked_up or looked.not_compared:
        return FAILED
    marked = life.row.state == RowState.SENT
    return CHECK_FAILED if looked.differences or marked != (looked.record is not None) else DONE


# Telling -------------------------------------------------------------------------------------------


def _as_json(life: RowHistory, looked: Looked, payload: bytes | None) -> dict[str, Any]:
    row = life.row._asdict()
    told = looked._asdict()
    if payload is None:
        row |= {name: MASKED for name in PERSONAL if row[name] is not None}
        told["differences"] = None if looked.differences is None else sorted(looked.differences)
    return {
        **row,
        "payload": _payload(life.row, payload),
        "kafka": told,
        "inference": life.call._asdict() if life.call else None,
        "ahead": life.ahead,
        "waits_for": life.parked_before,
        "behind": life.behind,
        "originals": [link._asdict() for link in life.originals],
        "replays": [link._asdict() for link in life.replays],
        "audit": [{**entry._asdict(), "row_ids": json.loads(entry.row_ids)} for entry in life.audit],
    }


def _payload(row: StoredRow, payload: bytes | None) -> str | None:
    """None: it was erased, and there is nothing to reveal."""
    if not row.payload_bytes:
        return None
    return MASKED if payload is None else payload.decode(errors="replace")


def _told(life: RowHistory, looked: Looked, payload: bytes | None) -> Iterator[str]:
    row = life.row
    yield f"row {row.id}: {row.state}"
    yield f"  interaction   {row.interaction_id}, {row.channel}, its timestamp {row.timestamp_ms}"
    yield f"  received      {told_time(row.received_at_ms)}"
    yield from _told_content(row, payload)
    yield from _told_way(life)
    yield from _told_kafka(life, looked, revealed=payload is not None)
    yield from _told_call(life)
    for link in life.originals:
        yield f"  replay of     {link.id} ({link.state or 'pruned'})"
    for link in life.replays:
        yield f"  replayed as   {link.id} ({link.state}), of {link.replay_of}"
    for entry in life.audit:
        who = f"{told_time(entry.at_ms)} {told_actor(entry)}"
        yield f"  on record     {who} {entry.verb}: {entry.reason} (entry {entry.id})"


def _told_content(row: StoredRow, payload: bytes | None) -> Iterator[str]:
    said = _payload(row, payload) or "erased"
    if payload is not None:
        yield f"  customer      {row.customer_email or '-'}"
        yield f"  agent         {row.agent_id or '-'}"
        yield f"  payload       {said}"
        return
    masked = [name for name, value in (("customer", row.customer_email), ("agent", row.agent_id)) if value]
    if row.payload_bytes:
        masked.append("payload")
        said = f"{row.payload_bytes} bytes"
    yield f"  payload       {said}"
    if masked:
        yield f"  masked        {', '.join(masked)} (--reveal --reason WHY shows them, and goes into the audit)"


def _told_way(life: RowHistory) -> Iterator[str]:
    row = life.row
    if row.error is not None:
        yield f"  error         {row.error}"
    if life.parked_before is not None:
        yield f"  waits for     row {life.parked_before} of its interaction, which is parked"
    elif row.state == RowState.PENDING:
        yield f"  to be sent    {life.ahead} pending row(s) of shard {row.shard} are before it"
    if row.state == RowState.PARKED:
        yield f"  behind it     {life.behind} row(s) of its interaction wait"
    if row.sent_at_ms is not None:
        yield f"  marked sent   {told_time(row.sent_at_ms)}, {(row.sent_at_ms - row.received_at_ms) / 1000:.3f} s later"


def _told_kafka(life: RowHistory, looked: Looked, *, revealed: bool) -> Iterator[str]:
    row = life.row
    if row.sequence is not None:
        name = f" ({looked.transactional_id})" if looked.transactional_id else ""
        yield f"  transaction   {row.sequence} of shard {row.shard}{name}"
    if looked.record is None:
        yield f"  in Kafka      {looked.not_seen}"
        return
    record = looked.record
    headers = " ".join(f"{name}={value}" for name, value in record["headers"].items())
    yield f"  in Kafka      {record['topic']}, partition {record['partition']}, offset {record['offset']}"
    yield f"  record        {told_time(record['timestamp_ms'])}, {record['value']}, {headers}"
    if looked.not_compared:
        yield f"  compared      not compared: {looked.not_compared}"
    elif looked.differences is not None:
        different = ", ".join(sorted(looked.differences))
        yield f"  compared      {f'DIFFERENT in {different}' if different else 'the record is as the row'}"
        if revealed:
            for name, (ours, theirs) in sorted(looked.differences.items()):
                yield f"                {name}: the row has {ours!r}, the record {theirs!r}"


def _told_call(life: RowHistory) -> Iterator[str]:
    call = life.call
    if call is None:
        yield "  inference     no call"
        return
    last = f", last answer {call.status or call.error or 'none'}"
    if call.latency_ms is not None:
        last += f" in {call.latency_ms} ms"
    due = ""
    if call.state == CallState.DUE:
        due = f", made by {call.claimed_by}" if call.claimed_by else f", due {told_time(call.due_at_ms)}"
    yield f"  inference     {call.state}, {call.attempts} attempt(s){last}{due}"
