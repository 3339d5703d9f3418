"""How a command that fails ends: with a line that says why, and an exit code; never with a traceback."""

import errno
import os
from contextlib import suppress
from io import StringIO

import click

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a full disk, a quota or a terminal that is gone say; a pipe that is closed is ended silently by click."""


def report(error: Exception) -> int:
    """Say on stderr why a command failed; with ``LOG_LEVEL=DEBUG`` also where. Returns the exit code."""
    from relay.cli.options import FAILED

    with suppress(OSError):  # stderr may be what cannot be written
        _show(error)
    return error.exit_code if isinstance(error, click.ClickException) else FAILED


def _show(error: Exception) -> None:
    from config.logging import frames
    from relay.cli.output import escaped

    for line in _said(error).rstrip("\n").split("\n"):
        click.echo(escaped(line), err=True)
    if os.environ.get("LOG_LEVEL", "").upper() == "DEBUG" and not isinstance(error, click.ClickException):
        for place in frames(error):
            click.echo(f"  {escaped(place)}", err=True)


def _said(error: Exception) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    from config.settings import SettingsError
    from outbox.errors import OutboxError
    from relay.errors import RelayError

    if isinstance(error, click.ClickException):
        usage = StringIO()
        error.show(usage)
        return usage.getvalue()
    if isinstance(error, SettingsError | OutboxError | RelayError):
        return str(error)
    if isinstance(error, click.Abort):
        return "stopped"
    if isinstance(error, SQLAlchemyError):  # its message could quote a row
        return f"database error: {type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        what = error.filename or ("the output cannot be written" if error.errno in UNWRITABLE else type(error).__name__)
        return f"{what}: {error.strerror}"
    return f"unexpected {type(error).__name__}: please report it with the output under LOG_LEVEL=DEBUG"
