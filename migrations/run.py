"""The migrations as the product runs them: configured in code, from wherever the package is installed."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

_FOLDER = str(files("migrations"))


def head() -> str:
    """The newest revision that this code brings."""
    return ScriptDirectory(_FOLDER).get_current_head() or ""


def upgrade() -> None:
    """Bring the database named by ``DATABASE_URL`` to the newest revision; ``env.py`` says how.

    Raises:
        SettingsError, OutboxError: nothing has changed, for every step is in one transaction.
    """
    config = Config()
    config.set_main_option("script_location", _FOLDER.replace("%", "%%"))
    command.upgrade(config, "head")
