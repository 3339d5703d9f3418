"""A database transaction as a ``with`` block, which turns driver errors into errors of the outbox."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from outbox.db.engine import AUTOCOMMIT, READ_ONLY, require_files
from outbox.db.errors import CONNECTION_FAULTS, Fault, as_outbox_error, classify
from outbox.errors import ConnectionLostError, DatabaseUnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that is committed at the end of the block.

    Raises:
        DatabaseUnavailableError: also after a commit without an answer: the outcome is unknown.
        SchemaOutdatedError: a table or column is missing.
        DataError, IntegrityError: from SQLAlchemy: a row has an invalid value; nothing was stored.
    """
    with translate_errors(engine), engine.connect() as connection:
        with connection.begin():
            yield connection
        require_files(connection.info)


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Open a read-only transaction; on SQLite it never waits for writers. Raises the errors of ``write``."""
    with (
        translate_errors(engine),
        engine.connect().execution_options(**READ_ONLY) as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """Open a connection for single statements that read, or for one move. Raises the errors of ``write``.

    On PostgreSQL each statement is its own transaction, which saves two round trips. The server's timeouts, which are
    set in transactions, do not apply; the connection's own does.
    """
    with translate_errors(engine), engine.connect().execution_options(**AUTOCOMMIT) as connection:
        yield connection


def tuples(result: CursorResult[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a result as the driver made them, without SQLAlchemy's wrapper around each."""
    return list(result.cursor.fetchall()) if result.cursor else []


@contextmanager
def driver(engine: Engine) -> Iterator[Any]:
    """Open a connection of the driver itself, outside of a transaction; what the block leaves open is rolled back.

    Raises the errors of ``write``; for an invalid value of a row, the driver's error.
    """
    dbapi = engine.dialect.loaded_dbapi
    with translate_errors(engine):
        pooled = engine.raw_connection()
        try:
            yield pooled.driver_connection
            require_files(pooled.info)
        except dbapi.Error as error:
            lost = engine.dialect.is_disconnect(error, pooled.driver_connection, None)
            if lost or classify(error) in CONNECTION_FAULTS:
                pooled.invalidate()
            if lost:
                raise as_outbox_error(error, engine, lost=True) from None
            raise
        finally:
            pooled.close()


def refuse_unsafe(engine: Engine) -> None:
    """Connect once, to raise an error that waiting cannot remedy; leave the engine without connections.

    Raises:
        UnsafeDatabaseError: the database cannot hold an outbox.
    """
    try:
        with contextlib.suppress(DatabaseUnavailableError), autocommit(engine):
            pass
    finally:
        engine.dispose()


def retry_once(attempt: Callable[[], T]) -> T:
    """Return the attempt's result; repeat it once if the connection is lost, so that no caller fails for a stale one.

    Args:
        attempt: can safely be repeated although the first may have been committed.
    """
    try:
        return attempt()
    except ConnectionLostError as lost:
        log.debug("retrying on a new connection: %s", lost, extra={"action": "retried"})
        return attempt()


@contextmanager
def translate_errors(engine: Engine) -> Iterator[None]:
    """Turn whatever the driver or SQLAlchemy raises in the block into an error of the outbox.

    A lost connection empties the pool: what ended one session has probably ended the others.
    """
    try:
        try:
            yield
        except DBAPIError as error:
            if classify(error.orig) is Fault.ROW:
                raise
            raise as_outbox_error(error.orig, engine, lost=error.connection_invalidated) from None
        except engine.dialect.loaded_dbapi.Error as error:
            if classify(error) is Fault.ROW:
                raise
            raise as_outbox_error(error, engine, lost=False) from None
        except SQLAlchemyError as error:  # the pool's timeout, or a connection lost in use
            raise DatabaseUnavailableError(f"database error: {type(error).__name__}") from None
    except ConnectionLostError:
        engine.dispose()
        raise
