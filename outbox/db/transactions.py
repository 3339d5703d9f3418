"""One database transaction as a block, with the driver's errors told in the ledger's terms."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from outbox.db.engine import READ_ONLY, SINGLE, insist_on_files
from outbox.db.errors import CONDEMNED, Fault, classify, explain
from outbox.errors import ConnectionLostError, DatabaseUnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """A transaction that is committed at the end of the block.

    Raises:
        DatabaseUnavailableError: also when the commit was asked for and not answered: unknown outcome.
        SchemaOutdatedError: a table or column is missing.
        DataError, IntegrityError: as SQLAlchemy raises them: a row's own fault, nothing was stored.
    """
    with translated(engine), engine.connect() as connection:
        with connection.begin():
            yield connection
        insist_on_files(connection.info)


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """A read-only block; on SQLite it never waits for writers. Errors as ``write``."""
    with translated(engine), engine.connect().execution_options(**READ_ONLY) as connection, connection.begin():
        yield connection


@contextmanager
def single(engine: Engine) -> Iterator[Connection]:
    """Single statements, for reading. Errors as ``write``.

    On PostgreSQL each commits by itself: a transaction would be two more round trips. The server's time-outs,
    which belong to a transaction, do not hold; the connection's own does.
    """
    with translated(engine), engine.connect().execution_options(**SINGLE) as connection:
        yield connection


def tuples(result: CursorResult[Any]) -> list[tuple[Any, ...]]:
    """The rows of a result as the driver made them, without a wrapper around each."""
    return list(result.cursor.fetchall()) if result.cursor else []


@contextmanager
def driver(engine: Engine) -> Iterator[Any]:
    """The driver's own connection, in no transaction; what is begun in the block and not committed is rolled back.
    Errors as ``write``, a row's own fault as the driver raises it.
    """
    dbapi = engine.dialect.loaded_dbapi
    with translated(engine):
        pooled = engine.raw_connection()
        try:
            yield pooled.driver_connection
            insist_on_files(pooled.info)
        except dbapi.Error as error:
            lost = engine.dialect.is_disconnect(error, pooled.driver_connection, None)
            if lost or classify(error) in CONDEMNED:
                pooled.invalidate()
            if lost:
                raise explain(error, engine, lost=True) from None
            raise
        finally:
            pooled.close()


def refuse_unsafe(engine: Engine) -> None:
    """Return if the database is fit for an outbox, or cannot be asked now; the engine is left without a connection.

    Raises:
        UnsafeDatabaseError: waiting does not help.
    """
    try:
        with contextlib.suppress(DatabaseUnavailableError), single(engine):
            pass
    finally:
        engine.dispose()


def repeated(attempt: Callable[[], T]) -> T:
    """What the attempt gives; made once more if its connection is lost, so that a stale one costs no caller.

    Args:
        attempt: may be made again although the first may have been committed.
    """
    try:
        return attempt()
    except ConnectionLostError as lost:
        log.info("repeated on a fresh connection: %s", lost)
        return attempt()


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Whatever the drivers or SQLAlchemy raise in the block, as an error of the outbox.

    A condemned connection takes the pool with it: what ended one session has ended or spoilt the others.
    """
    try:
        try:
            yield
        except DBAPIError as error:
            if classify(error.orig) is Fault.ROW:
                raise
            raise explain(error.orig, engine, lost=error.connection_invalidated) from None
        except engine.dialect.loaded_dbapi.Error as error:
            if classify(error) is Fault.ROW:
                raise
            raise explain(error, engine, lost=False) from None
        except SQLAlchemyError as error:  # the pool's time-out, a connection gone in mid-flight
            raise DatabaseUnavailableError(f"database error: {type(error).__name__}") from None
    except ConnectionLostError:
        engine.dispose()
        raise
