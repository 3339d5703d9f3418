"""``relay replay``: send rows again on purpose."""

import sys

import click

from outbox.operators.planned_change import Verb, restrict
from outbox.operators.planned_replay import check_plan_name, plan_call_again, plan_name, plan_replay
from relay.cli.change import find_rows, run_change
from relay.cli.errors import usage_errors
from relay.cli.options import ChangeOptions, RowSelection, change_options, row_filters
from relay.cli.session import audit_context, open_operations


@click.command()
@row_filters
@change_options
@click.option("--topic", help="Send to this topic, one of KAFKA_REPLAY_TOPICS [default: KAFKA_TOPIC].")
@click.option("--inference-only", is_flag=True, help="Call the inference endpoint again; send nothing to Kafka.")
@click.option(
    "--plan",
    metavar="NAME",
    help="Name of the replay; no row is replayed twice under one name [default: derived from filters and reason].",
)
@usage_errors()
def replay(
    *, selection: RowSelection, options: ChangeOptions, topic: str | None, inference_only: bool, plan: str | None
) -> None:
    """Send rows again, as deliberate duplicates.

    Selects sent rows or, with --state discarded, discarded ones. Each becomes a new row, in the original
    order, and its record carries the header replay-of. Repeating the command continues an interrupted
    replay. To replay the same rows once more, give another --reason or --plan.

    \b
    Examples:
      relay replay --since 2026-01-31T08:00 --until 2026-01-31T09:00 --reason "consumer lost an hour" --rate 500
      relay replay --id 4711 --state discarded --reason "discarded by mistake"
    """
    name = check_plan_name(plan) if plan else plan_name(topic, selection.as_typed(), options.reason)
    if topic and inference_only:
        raise click.UsageError("--inference-only sends nothing to Kafka: give no --topic with it")
    rows = restrict(Verb.CALL_AGAIN if inference_only else Verb.REPLAY, selection.require())
    with open_operations() as (operations, settings):
        context = audit_context(options, settings)
        if inference_only:
            change = plan_call_again(operations, rows, name, find_rows)
        else:
            change = plan_replay(operations, rows, name, topic, settings.kafka_replay_topics, find_rows)
        sys.exit(run_change(change, options, context))
