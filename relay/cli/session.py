"""What a command works with: the outbox of the environment, its settings, and who acts."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from config.settings import BaseSettings, load
from outbox.db import rights
from outbox.db.engine import ANSWER_SECONDS, LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.errors import OutboxError, UnsafeDatabaseError
from outbox.operators.attribution import choose_actor
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.rows import RowFilter
from relay.cli.errors import usage_errors
from relay.cli.options import ChangeOptions
from relay.operator_settings import OperatorSettings
from relay.settings import RelaySettings

S = TypeVar("S", bound=BaseSettings)


class ShardSettings(RelaySettings, OperatorSettings):
    """Settings of the commands that take shards over from relays, and so need Kafka."""


@contextmanager
def open_outbox(kind: type[S], *, answer_seconds: float = ANSWER_SECONDS) -> Iterator[tuple[Engine, S]]:
    """Load the settings and connect to the outbox.

    Args:
        kind: class of the settings.
        answer_seconds: how long the database may leave one statement unanswered.
    """
    settings = load(kind, os.environ)
    engine = create_outbox_engine(settings.database_url.get_secret_value(), answer_seconds=answer_seconds)
    try:
        _require_file(engine)
        yield engine, settings
    except OutboxError as error:
        raise rights.name_missing(engine, rights.OPERATOR, error) from None
    finally:
        engine.dispose()


def open_outbox_for_shards() -> AbstractContextManager[tuple[Engine, ShardSettings]]:
    """Load the settings and connect to the outbox, for changes of whole shards, which may take minutes."""
    return open_outbox(ShardSettings, answer_seconds=LONG_ANSWER_SECONDS)


@contextmanager
def open_operations() -> Iterator[tuple[Operations, OperatorSettings]]:
    """Load the operators' settings and connect to the outbox."""
    with open_outbox(OperatorSettings) as (engine, settings):
        yield Operations(engine), settings


def _require_file(engine: Engine) -> None:
    """Refuse a missing SQLite file, which SQLite would create: the operator is in the wrong directory."""
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
        raise UnsafeDatabaseError(
            f"DATABASE_URL names {engine.url.database}, which does not exist: "
            "correct it, or create the outbox with relay migrate"
        )


@usage_errors()
def audit_context(options: ChangeOptions, settings: OperatorSettings, rows: RowFilter | None = None) -> AuditContext:
    """Return who acts and why, for the audit log.

    Args:
        options: reason and actor as given.
        settings: the defaults.
        rows: the rows that were selected, unless the change is planned and so has its filter.

    Raises:
        click.UsageError: nobody can be named.
    """
    actor = choose_actor(options.actor, settings.relay_actor, audited=not options.dry_run)
    return AuditContext(actor, options.reason, rows or RowFilter(), settings.pseudonym_key)
