"""One classification of what the database drivers raise: whose fault it is, and what becomes of the connection.

PostgreSQL: by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html), never by the words of a
message: a missing database "does not exist" just as a missing table does. SQLite: by result code
(https://sqlite.org/rescode.html), and by its words where it has no code of its own.
"""

import os
import pwd
from enum import Enum
from pathlib import Path

from sqlalchemy import Engine

from outbox.db.sqlite_files import SUFFIXES
from outbox.errors import (
    MIGRATE,
    ConnectionLostError,
    DatabaseUnavailableError,
    NotAllowedError,
    OutboxError,
    SchemaOutdatedError,
)


class Fault(Enum):
    """What is at fault."""

    ROW = "the values of a row"
    CONNECTION = "the connection: it has ended, and others of the pool may have as well"
    READ_ONLY = "the session: it takes no writes, while another one may"
    SCHEMA = "the schema: a table or a column is missing"
    NOT_ALLOWED = "the rights of the role"
    UNAVAILABLE = "the state of the database"


CONDEMNED = frozenset({Fault.CONNECTION, Fault.READ_ONLY})
"""The connection cannot be used again, nor can those made before it."""

_KINDS: dict[Fault, type[DatabaseUnavailableError]] = {Fault.NOT_ALLOWED: NotAllowedError}
_SQLSTATES = {
    "08": Fault.CONNECTION,
    "57P": Fault.CONNECTION,  # shut down, crashed, starting, database dropped, idle for too long
    "25P03": Fault.CONNECTION,  # idle in a transaction for too long
    "25P04": Fault.CONNECTION,  # a transaction took too long
    "25006": Fault.READ_ONLY,
    "42P01": Fault.SCHEMA,
    "42703": Fault.SCHEMA,
    "3F000": Fault.SCHEMA,
    "42501": Fault.NOT_ALLOWED,
    "22": Fault.ROW,
    "23": Fault.ROW,
    "2200H": Fault.UNAVAILABLE,  # a sequence is used up: every row would fail
    "23505": Fault.UNAVAILABLE,  # keys may repeat, so only ids collide: a sequence behind its table fails every row
}
"""By SQLSTATE or the beginning of one; the longest that matches decides, and what matches none is unavailable."""
_RESULT_CODES = {
    8: Fault.READ_ONLY,  # READONLY; also of a file that was moved
    10: Fault.CONNECTION,  # IOERR
    11: Fault.CONNECTION,  # CORRUPT
    26: Fault.CONNECTION,  # NOTADB
}
_ROW_ERRORS = frozenset({"DataError", "IntegrityError"})
_MISSING = ("no such table", "no such column")

_CURES = {
    "25006": "let DATABASE_URL name the server that takes writes, or end its read-only mode",
    "42501": "grant the role what outbox/roles.sql lists for it",
    "2200H": "the outbox has no ids left",
    "23505": "the sequence of the ids is behind the table (a restored copy?): set it to the highest id",
    "55P03": "a migration or a long transaction holds the lock: try again when it has ended",
    "53100": "free the disk of the database server",
    "53300": "raise max_connections of the server, or run fewer processes",
}
"""By SQLSTATE; what else goes wrong says enough by itself."""


def classify(error: BaseException | None) -> Fault:
    """What is at fault.

    Args:
        error: of the driver itself (SQLAlchemy's ``orig``).
    """
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate:
        known = [code for code in _SQLSTATES if sqlstate.startswith(code)]
        return _SQLSTATES[max(known, key=len)] if known else Fault.UNAVAILABLE
    if any(kind.__name__ in _ROW_ERRORS for kind in type(error).__mro__):
        return Fault.ROW
    if any(mark in str(error) for mark in _MISSING):
        return Fault.SCHEMA
    return _RESULT_CODES.get(_result_code(error), Fault.UNAVAILABLE)


def explain(error: BaseException | None, engine: Engine, *, lost: bool) -> OutboxError:
    """The error in the outbox's terms, with the cure where there is one.

    Args:
        error: of the driver itself; not one that is a row's fault.
        engine: that it happened with.
        lost: whether the connection has ended with it.
    """
    fault, what = classify(error), _in_one_line(error)
    if fault is Fault.SCHEMA:
        return SchemaOutdatedError(f"the database lacks what this code needs ({what}): {MIGRATE}")
    sqlite = engine.dialect.name == "sqlite"
    cure = _sqlite_cure(error, Path(engine.url.database or "")) if sqlite else _postgresql_cure(error, what)
    kind = ConnectionLostError if lost or fault in CONDEMNED else _KINDS.get(fault, DatabaseUnavailableError)
    return kind(f"database error: {what}{': ' if cure else ''}{cure}")


def _postgresql_cure(error: BaseException | None, what: str) -> str:
    refused = "session is read-only" in what  # libpq's own words
    return _CURES.get("25006" if refused else str(getattr(error, "sqlstate", "")), "")


def _result_code(error: BaseException | None) -> int:
    """SQLite's primary result code; 0: none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _in_one_line(error: BaseException | None) -> str:
    """The first line: further ones may quote a row. Where several hosts were tried, what each one said."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    attempts = [line.removeprefix("- ") for line in lines if line.startswith("- host: ")]
    return "; ".join(attempts) or lines[0]


def _sqlite_cure(error: BaseException | None, path: Path) -> str:
    folder = path.resolve().parent
    if _result_code(error) == 13:
        return f"free the disk that holds {folder}"
    if _result_code(error) in (11, 26):
        return f"restore {path} from a copy"
    if _result_code(error) not in (8, 10, 14):
        return ""
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    there = [file for file in files if os.path.exists(file)]  # noqa: PTH110 - a Path raises where it may not look
    for place in (folder, *there):
        wanted = os.R_OK | os.W_OK | (os.X_OK if place == folder else 0)
        if not os.access(place, wanted, effective_ids=os.access in os.supports_effective_ids):
            return (
                f"the user {_user()} may not write {place}; SQLite writes {path}, and makes {path.name}-wal and "
                f"{path.name}-shm in the folder {folder}: give {_user()} the right to write file and folder"
            )
    return f"see whether {path} and its folder {folder} can be read and written"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
