"""``relay migrate``: migrate the database to this version's schema."""

import os
import sys
from pathlib import Path

import click
from sqlalchemy import make_url

from config.settings import load
from migrations.run import head, upgrade
from migrations.settings import ReleaseSettings
from outbox.db import diagnostics
from outbox.db.engine import create_outbox_engine
from outbox.errors import OutboxError, SchemaOutdatedError
from relay.cli.output import ExitCode


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit code 4 if the schema is outdated.")
def migrate(*, only_check: bool) -> None:
    """Migrate the database to this version's schema, or check it.

    Processes of the previous release keep working on the new schema, so migrate before you replace them.
    RELAY_SHARDS is read by the first migration only.

    \b
    Examples:
      relay migrate
      relay migrate --check || echo "run relay migrate first"
    """
    newest = head()
    current = _revision(load(ReleaseSettings, os.environ).database_url.get_secret_value())
    if current is not None and current >= newest:
        newer = f", newer than this version's {newest}" if current > newest else ""
        click.echo(f"schema is already at revision {current}{newer}: nothing to do")
    elif only_check:
        state = f"schema is at revision {current}" if current else "there is no schema"
        click.echo(f"{state}, this version needs {newest}: run relay migrate", err=True)
        sys.exit(ExitCode.CHECK_FAILED)
    else:
        _upgrade()
        click.echo(
            f"schema migrated from revision {current} to {newest}"
            if current
            else f"schema created at revision {newest}"
        )


def _upgrade() -> None:
    try:
        upgrade()
    except OutboxError as error:
        click.echo(f"migration failed, nothing changed: {error}", err=True)
        sys.exit(ExitCode.FAILED)


def _revision(url: str) -> str | None:
    """Return the schema's revision, None without a schema. Creates no SQLite file."""
    location = make_url(url)
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").exists():
        return None
    engine = create_outbox_engine(url)
    try:
        return diagnostics.revision(engine)
    except SchemaOutdatedError:
        return None
    finally:
        engine.dispose()
