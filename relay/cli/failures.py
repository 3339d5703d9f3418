"""How a command that fails ends: with a line that says why, and an exit code; never with a traceback."""

import os
import sys
from contextlib import suppress
from io import StringIO
from typing import TextIO

import click


def report(error: Exception) -> int:
    """Say on stderr why a command failed; with ``LOG_LEVEL=DEBUG`` also where. Returns the exit code."""
    from relay.cli.shared import FAILED

    lost = _drop_unwritten(sys.stdout) or _drop_unwritten(sys.stderr)
    code = error.exit_code if isinstance(error, click.ClickException) else FAILED
    with suppress(OSError):  # stderr may be what cannot be written
        if lost:
            click.echo(f"the output cannot be written: {lost}", err=True)
        else:
            _show(error)
    _drop_unwritten(sys.stderr)
    return code


def _drop_unwritten(stream: TextIO | None) -> str | None:
    """Why a stream cannot be written, if so; what it still holds is dropped, for Python would try again at its end."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return error.strerror or type(error).__name__
    return None


def _show(error: Exception) -> None:
    from config.logging import frames
    from relay.cli.shared import escaped

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
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: please report it with the output under LOG_LEVEL=DEBUG"
