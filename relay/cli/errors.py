"""How a failed command ends: one line that gives the reason, and an exit code; never a traceback."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO

import click

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors of a full disk, a quota or a closed terminal. Click ends silently on a closed pipe."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report a request that breaks a rule of the operations as a usage error. Also a decorator."""
    from outbox.errors import InvalidRequestError

    try:
        yield
    except InvalidRequestError as error:
        raise click.UsageError(str(error)) from None


def report(error: Exception) -> int:
    """Print why a command failed and return the exit code; with ``LOG_LEVEL=DEBUG`` also print where it failed."""
    from relay.cli.output import ExitCode

    with suppress(OSError):  # stderr itself may be unwritable
        _print_error(error)
    return error.exit_code if isinstance(error, click.ClickException) else ExitCode.FAILED


def _print_error(error: Exception) -> None:
    from config.logging import frames
    from outbox.operators.format import escape

    for line in _message(error).rstrip("\n").split("\n"):
        click.echo(escape(line), err=True)
    if os.environ.get("LOG_LEVEL", "").upper() == "DEBUG" and not isinstance(error, click.ClickException):
        for frame in frames(error):
            click.echo(f"  {escape(frame)}", err=True)


def _message(error: Exception) -> str:
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
    if isinstance(error, SQLAlchemyError):  # its message may quote a row
        return f"database error: {type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        fallback = "cannot write the output" if error.errno in UNWRITABLE else type(error).__name__
        return f"{error.filename or fallback}: {error.strerror}"
    return f"unexpected {type(error).__name__}: please report it with the output of LOG_LEVEL=DEBUG"
