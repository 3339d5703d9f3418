"""One database transaction as a block, with the driver's errors told in the ledger's terms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from outbox.engine import READ_ONLY, SINGLE
from outbox.errors import DatabaseUnavailableError, NotAllowedError, OutboxError, SchemaOutdatedError

ROW_ERRORS = (DataError, IntegrityError)
"""Errors that a row brings about by its values, not the database by its state."""

NOT_ALLOWED = "42501"
"""PostgreSQL's code of a right that the role lacks."""
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
def single(engine: Engine) -> Iterator[Connection]:
    """Single statements, for reading. Errors as ``write``.

    On PostgreSQL each commits by itself: a transaction would be two more round trips. The server's time-outs,
    which belong to a transaction, do not hold; the connection's own does.
    """
    with _translated(), engine.connect().execution_options(**SINGLE) as connection:
        yield connection


def tuples(result: CursorResult[Any]) -> list[tuple[Any, ...]]:
    """The rows of a result as the driver made them, without a wrapper around each."""
    return list(result.cursor.fetchall()) if result.cursor else []


@contextmanager
def driver(engine: Engine) -> Iterator[Any]:
    """The driver's own connection, in no transaction; what is begun in the block and not committed is rolled back.
    Errors as ``write``, and ``row_errors`` as the driver raises them.
    """
    dbapi = engine.dialect.loaded_dbapi
    with _translated():
        try:
            pooled = engine.raw_connection()
            try:
                yield pooled.driver_connection
            except dbapi.Error as error:
                if engine.dialect.is_disconnect(error, pooled.driver_connection, None):
                    pooled.invalidate()
                    engine.dispose()  # the others in the pool are gone as well
                raise
            finally:
                pooled.close()
        except row_errors(engine):
            raise
        except dbapi.Error as error:
            raise _told(error, is_programming=isinstance(error, dbapi.ProgrammingError)) from None


def row_errors(engine: Engine) -> tuple[type[Exception], ...]:
    """``ROW_ERRORS`` as the driver has them."""
    dbapi: Any = engine.dialect.loaded_dbapi
    return (dbapi.DataError, dbapi.IntegrityError)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ROW_ERRORS:
        raise
    except DBAPIError as error:
        raise _told(error.orig, is_programming=isinstance(error, ProgrammingError)) from None
    except SQLAlchemyError as error:  # the pool's time-out, a connection gone in mid-flight
        raise DatabaseUnavailableError(f"the database did not do its work: {type(error).__name__}") from None


def _told(error: BaseException | None, *, is_programming: bool) -> OutboxError:
    told = str(error).strip().split("\n", 1)[0]
    if getattr(error, "sqlstate", None) == NOT_ALLOWED:
        return NotAllowedError(
            f"the database did not do its work: {told}: grant the role what outbox/roles.sql lists for it"
        )
    if is_programming or any(mark in told for mark in _MISSING):
        return SchemaOutdatedError(f"the database lacks what this code needs ({told}): relay migrate")
    return DatabaseUnavailableError(f"the database did not do its work: {told}")
