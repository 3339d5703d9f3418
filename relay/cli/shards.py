"""What the verbs that look after shards share: their options, the question before they act, and their database."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import click
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from config.settings import BaseSettings, SettingsError, load
from outbox.engine import LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.errors import OutboxError
from outbox.rows import Order, RowFilter
from relay.cli.shared import FAILED, F, OperatorSettings, Reason, Words, who_acts
from relay.errors import RelayError
from relay.settings import RelaySettings

S = TypeVar("S", bound=BaseSettings)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class OperatingSettings(RelaySettings, OperatorSettings):
    """Settings of the verbs that go to Kafka like a relay, on an operator's word."""


class Span(click.ParamType[float]):
    """A time span as ``90s``, ``30m``, ``2h``, ``7d``; in seconds."""

    name = "span"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        given = re.fullmatch(r"([1-9]\d{0,5})([smhd])", value)
        if given is None:
            self.fail(f"{value!r} is no time span: give 90s, 30m, 2h or 7d", param, ctx)
        return float(int(given[1]) * _UNIT_SECONDS[given[2]])


def on_record(command: F) -> F:
    """The options of every verb that goes on record."""
    for option in (
        click.option("--as", "actor", type=Words(), help="Who is on record; RELAY_ACTOR or the OS user without."),
        click.option("--reason", type=Reason(), required=True, help="Why, for the record."),
    ):
        command = option(command)
    return command


def planned(command: F) -> F:
    """As ``on_record``, for verbs that show a plan first."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would happen, change nothing."),
    ):
        command = option(command)
    return on_record(command)


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether the operator wants it; without a terminal only ``--yes`` says so."""
    if yes:
        return True
    if not sys.stdin.isatty():
        click.echo("nothing is changed: without a terminal, give --yes", err=True)
        return False
    click.confirm(question, abort=True, err=True)
    return True


def order_of(actor: str | None, reason: str, settings: OperatorSettings) -> Order:
    """Who acts, and why."""
    return Order(who_acts(actor, settings), reason, RowFilter())


@contextmanager
def outbox_of(kind: type[S]) -> Iterator[tuple[Engine, S]]:
    """The outbox of the environment, with its settings; what goes wrong is one line and exit code 1."""
    try:
        settings = load(kind, os.environ)
        engine = create_outbox_engine(settings.database_url.get_secret_value(), answer_seconds=LONG_ANSWER_SECONDS)
        try:
            yield engine, settings
        finally:
            engine.dispose()
    except (SettingsError, OutboxError, RelayError) as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)
    except SQLAlchemyError as error:  # its message could quote a row
        click.echo(f"the database did not do its work: {type(error).__name__}", err=True)
        sys.exit(FAILED)
