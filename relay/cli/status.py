"""``relay status``: backlog, owners, rates."""

import json
import os
import sys
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from config.settings import BaseSettings, SettingsError, load
from outbox.engine import create_outbox_engine
from outbox.errors import OutboxError
from outbox.rows import ShardStatus
from outbox.store import Store
from relay.cli.shared import escaped


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a shard and line.")
def status(*, as_json: bool) -> None:
    """Backlog by state, age of the oldest row, rate, owner and time to drain of each shard.

    \b
    Examples:
      relay status
      relay status --json | jq 'select(.parked > 0)'
    """
    try:
        settings = load(BaseSettings, os.environ)
        engine = create_outbox_engine(settings.database_url.get_secret_value())
        try:
            shards = Store(engine).status()
        finally:
            engine.dispose()
    except (SettingsError, OutboxError, SQLAlchemyError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    if as_json:
        for shard in shards:
            click.echo(json.dumps(_told(shard)))
    else:
        Console().print(_table(shards))


def _told(shard: ShardStatus) -> dict[str, Any]:
    live = shard.owner is not None and shard.lease_remaining_ms > 0
    to_send = shard.pending - shard.waiting
    rate = shard.rows_per_second if live else 0.0
    return {
        **shard._asdict(),
        "owner_live": live,
        "drained_in_seconds": round(to_send / rate) if rate and to_send else (0 if not to_send else None),
    }


def _table(shards: list[ShardStatus]) -> Table:
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("shard", "owner", "epoch", "settled", "pending", "waiting", "parked", "discarded"):
        table.add_column(name, justify="left" if name == "owner" else "right", overflow="fold")
    for name in ("oldest", "rows/s", "drained in", "condition"):
        table.add_column(name, justify="left" if name == "condition" else "right", overflow="fold")
    for shard in shards:
        told = _told(shard)
        table.add_row(
            str(shard.shard),
            escape(escaped(shard.owner if told["owner_live"] else "nobody")),
            *(str(told[name]) for name in ("epoch", "settled", "pending", "waiting", "parked", "discarded")),
            _seconds(shard.oldest_age_ms / 1000 if shard.oldest_age_ms is not None else None),
            f"{shard.rows_per_second:,.0f}" if told["owner_live"] else "-",
            _seconds(told["drained_in_seconds"]),
            escape(escaped(shard.condition or "")),
        )
    return table


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes // 60}h {minutes % 60:02}m" if minutes >= 60 else f"{minutes}m {seconds:02}s"
