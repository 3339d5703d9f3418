"""One database transaction as a block, with the driver's errors told in the ledger's terms."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from outbox.engine import READ_ONLY
from outbox.errors import DatabaseUnavailableError, SchemaOutdatedError

ROW_ERRORS = (DataError, IntegrityError)
"""Errors that a row brings about by its values, not the database by its state."""

_MISSING = ("no such table", "no such column", "does not exist")


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """A transaction that is committed at the end of the block.

    Raises:
        DatabaseUnavailableError: also when the commit was asked for and not answered: unknown outcome.
        SchemaOutdatedError: a table or column is missing.
        DataError, IntegrityError: as SQLAlchemy raises them: a row's own fault, nothing was stored.
    """
    with _translated(), engine.begin() as connection:
        yield connection


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """A read-only block; on SQLite it never waits for writers. Errors as ``write``."""
    with _translated(), engine.connect().execution_options(**READ_ONLY) as connection, connection.begin():
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ROW_ERRORS:
        raise
    except DBAPIError as error:
        told = str(error.orig).strip().split("\n", 1)[0]
        if isinstance(error, ProgrammingError) or any(mark in told for mark in _MISSING):
            raise SchemaOutdatedError(
                f"the database lacks what this code needs ({told}): alembic upgrade head"
            ) from None
        raise DatabaseUnavailableError(f"the database did not do its work: {told}") from None
    except SQLAlchemyError as error:  # the pool's time-out, a connection gone in mid-flight
        raise DatabaseUnavailableError(f"the database did not do its work: {type(error).__name__}") from None
