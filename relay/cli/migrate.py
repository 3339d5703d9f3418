"""``relay migrate``: bring the database to this version's schema."""

import os
import sys
from pathlib import Path

import click
from sqlalchemy import make_url

from config.settings import SettingsError, load
from migrations.run import head, upgrade
from migrations.settings import ReleaseSettings
from outbox.db import diagnostics
from outbox.db.engine import create_outbox_engine
from outbox.errors import OutboxError, SchemaOutdatedError
from relay.cli.options import CHECK_FAILED, FAILED


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit code 4 if the schema is behind.")
def migrate(*, only_check: bool) -> None:
    """Bring the database to this version's schema, or check it.

    Processes of the previous release keep working on the new schema, so it runs before they are replaced.
    RELAY_SHARDS is read by the first migration only.

    \b
    Examples:
      relay migrate
      relay migrate --check || echo "run relay migrate first"
    """
    try:
        _migrate(load(ReleaseSettings, os.environ).database_url.get_secret_value(), only_check=only_check)
    except (SettingsError, OutboxError) as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)


def _migrate(url: str, *, only_check: bool) -> None:
    newest, before = head(), _revision(url)
    if before is not None and before >= newest:
        newer = f", newer than this version's {newest}: nothing to do" if before > newest else ""
        click.echo(f"the schema is at revision {before}{newer}")
    elif only_check:
        found = f"at revision {before}" if before else "missing"
        click.echo(f"the schema is {found}, this version brings {newest}: run relay migrate", err=True)
        sys.exit(CHECK_FAILED)
    else:
        try:
            upgrade()
        except OutboxError as error:
            click.echo(f"the migration failed and changed nothing: {error}", err=True)
            sys.exit(FAILED)
        click.echo(f"the schema is at revision {newest}, {f'it was at {before}' if before else 'new'}")


def _revision(url: str) -> str | None:
    """The schema's revision; None without one. Makes no SQLite file."""
    place = make_url(url)
    if place.get_backend_name() == "sqlite" and not Path(place.database or "").exists():
        return None
    engine = create_outbox_engine(url)
    try:
        return diagnostics.revision(engine)
    except SchemaOutdatedError:
        return None
    finally:
        engine.dispose()
