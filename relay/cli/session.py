"""What a command works with: the outbox of the environment, its settings, and who acts."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import click
from pydantic import SecretStr, field_validator
from sqlalchemy import Engine

from config.settings import BaseSettings, load
from outbox.db import rights
from outbox.db.engine import ANSWER_SECONDS, LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.errors import OutboxError, UnsafeDatabaseError
from outbox.operators.audit import AuditContext, os_user
from outbox.operators.change import Operations
from outbox.operators.rows import RowFilter
from relay.cli.options import ChangeOptions
from relay.cli.param_types import MAX_TEXT_CHARACTERS
from relay.settings import DAY_SECONDS, RelaySettings, Retention, Topics

S = TypeVar("S", bound=BaseSettings)
MIN_KEY_BYTES = 16


class OperatorSettings(BaseSettings):
    """Settings of the commands that read and change rows."""

    relay_actor: str | None = None
    """Name recorded in the audit as the actor. Unset: the OS user."""
    audit_pseudonym_key: SecretStr | None = None
    """Key that turns ids and addresses in recorded filters into pseudonyms, 16 bytes or more; see
    [AUDIT_PSEUDONYM_KEY](#audit_pseudonym_key). Unset: they are not recorded."""
    kafka_replay_topics: Topics = ()
    outbox_retention: Retention = 7 * DAY_SECONDS

    @field_validator("audit_pseudonym_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < MIN_KEY_BYTES:
            raise ValueError(f"expected {MIN_KEY_BYTES} bytes or more; generate it with openssl rand -hex 32")
        return value

    @property
    def pseudonym_key(self) -> bytes | None:
        """The key as bytes."""
        return self.audit_pseudonym_key.get_secret_value().encode() if self.audit_pseudonym_key else None


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


def audit_context(options: ChangeOptions, settings: OperatorSettings, rows: RowFilter | None = None) -> AuditContext:
    """Return who acts and why, for the audit log.

    Args:
        options: reason and actor as given.
        settings: the defaults.
        rows: the rows that were selected; None: the change is not of rows.

    Raises:
        click.UsageError: nobody can be named.
    """
    actor = _actor(options, settings)
    return AuditContext(actor, options.reason, rows or RowFilter(), settings.pseudonym_key)


def _actor(options: ChangeOptions, settings: OperatorSettings) -> str:
    """Return ``--as``, ``RELAY_ACTOR`` or the OS user. A dry run is not audited, so it accepts any user."""
    if options.actor:
        return options.actor.strip()
    if actor := (settings.relay_actor or "").strip():
        if len(actor) > MAX_TEXT_CHARACTERS or not actor.isprintable():
            raise click.UsageError(
                f"RELAY_ACTOR is longer than {MAX_TEXT_CHARACTERS} characters or contains non-printable ones"
            )
        return actor
    user = os_user()
    if (user == "root" or user.startswith("uid ")) and not options.dry_run:
        raise click.UsageError(f"this runs as {user}: name yourself with --as NAME or RELAY_ACTOR")
    return user
