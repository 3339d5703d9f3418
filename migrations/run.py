"""Runs the migrations from code, wherever the package is installed."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

_FOLDER = str(files("migrations"))


def head() -> str:
    """Return the newest revision of this version."""
    return ScriptDirectory(_FOLDER).get_current_head() or ""


def upgrade() -> None:
    """Migrate the database of ``DATABASE_URL`` to the newest revision; see ``env.py``.

    Raises:
        SettingsError, OutboxError: nothing has changed, as all revisions run in one transaction.
    """
    config = Config()
    config.set_main_option("script_location", _FOLDER.replace("%", "%%"))
    command.upgrade(config, "head")
