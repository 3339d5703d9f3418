"""The classification of database errors: what is at fault, and whether the connection can still be used.

PostgreSQL: by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html), never by the message: a
missing database "does not exist", just as a missing table. SQLite: by result code (https://sqlite.org/rescode.html),
and by the message where there is no specific code.
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
    CONNECTION = "the connection: it has ended, and others of the pool may have too"
    READ_ONLY = "the session: it accepts no writes, while another one may"
    SCHEMA = "the schema: a table or a column is missing"
    NOT_ALLOWED = "the privileges of the role"
    UNAVAILABLE = "the state of the database"


CONNECTION_FAULTS = frozenset({Fault.CONNECTION, Fault.READ_ONLY})
"""After these the connection cannot be used again, nor can those opened before it."""

_KINDS: dict[Fault, type[DatabaseUnavailableError]] = {Fault.NOT_ALLOWED: NotAllowedError}
_SQLSTATES = {
    "08": Fault.CONNECTION,
    "57P": Fault.CONNECTION,  # shutdown, crash, startup, database dropped, session idle too long
    "25P03": Fault.CONNECTION,  # idle in a transaction too long
    "25P04": Fault.CONNECTION,  # transaction too long
    "25006": Fault.READ_ONLY,
    "42P01": Fault.SCHEMA,
    "42703": Fault.SCHEMA,
    "3F000": Fault.SCHEMA,
    "42501": Fault.NOT_ALLOWED,
    "22": Fault.ROW,
    "23": Fault.ROW,
    "2200H": Fault.UNAVAILABLE,  # a sequence is exhausted: every row would fail
    "23505": Fault.UNAVAILABLE,  # keys may repeat, so only ids collide: a sequence behind its table fails every row
}
"""Faults by SQLSTATE or its first characters; the longest match decides. Without a match: ``UNAVAILABLE``."""
_RESULT_CODES = {
    8: Fault.READ_ONLY,  # READONLY; also a file that was moved
    10: Fault.CONNECTION,  # IOERR
    11: Fault.CONNECTION,  # CORRUPT
    26: Fault.CONNECTION,  # NOTADB
}
_ROW_ERRORS = frozenset({"DataError", "IntegrityError"})
_MISSING = ("no such table", "no such column")

REMEDIES = {
    "25006": "let DATABASE_URL name the server that accepts writes, or end its read-only mode",
    "42501": "grant the role what outbox/roles.sql lists for it",
    "2200H": "the sequence of the ids is exhausted",
    "23505": "the sequence of the ids is behind the table (a restored copy?): set it to the highest id",
    "55P03": "a migration or a long transaction holds the lock: try again after it has ended",
    "53100": "free disk space on the database server",
    "53300": "raise max_connections on the server, or run fewer processes",
}
"""Remedies by SQLSTATE; other messages say enough by themselves."""


def classify(error: BaseException | None) -> Fault:
    """Return what is at fault.

    Args:
        error: from the driver itself (SQLAlchemy's ``orig``).
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


def as_outbox_error(error: BaseException | None, engine: Engine, *, lost: bool) -> OutboxError:
    """Return the outbox's error for a driver's error, with a remedy if there is one.

    Args:
        error: from the driver itself; not ``Fault.ROW``.
        engine: where it occurred.
        lost: whether the connection ended with it.
    """
    fault, message = classify(error), _in_one_line(error)
    if fault is Fault.SCHEMA:
        return SchemaOutdatedError(f"the database lacks what this version needs ({message}): run {MIGRATE}")
    sqlite = engine.dialect.name == "sqlite"
    path = Path(engine.url.database or "")
    remedy = _sqlite_remedy(error, path) if sqlite else _postgresql_remedy(error, message)
    kind = ConnectionLostError if lost or fault in CONNECTION_FAULTS else _KINDS.get(fault, DatabaseUnavailableError)
    return kind(f"database error: {message}{': ' if remedy else ''}{remedy}")


def _postgresql_remedy(error: BaseException | None, message: str) -> str:
    read_only = "session is read-only" in message  # libpq's message, which has no SQLSTATE
    return REMEDIES.get("25006" if read_only else str(getattr(error, "sqlstate", "")), "")


def _result_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code; 0: none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _in_one_line(error: BaseException | None) -> str:
    """Return the first line, as further ones may quote a row; where several hosts were tried, each one's line."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    attempts = [line.removeprefix("- ") for line in lines if line.startswith("- host: ")]
    return "; ".join(attempts) or lines[0]


def _sqlite_remedy(error: BaseException | None, path: Path) -> str:
    folder = path.resolve().parent
    if _result_code(error) == 13:
        return f"free disk space in {folder}"
    if _result_code(error) in (11, 26):
        return f"restore {path} from a copy"
    if _result_code(error) not in (8, 10, 14):
        return ""
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    existing = [file for file in files if os.path.exists(file)]  # noqa: PTH110 - a Path raises where access is denied
    for place in (folder, *existing):
        mode = os.R_OK | os.W_OK | (os.X_OK if place == folder else 0)
        if not os.access(place, mode, effective_ids=os.access in os.supports_effective_ids):
            return (
                f"the user {_user()} may not write {place}; SQLite writes {path}, and creates {path.name}-wal and "
                f"{path.name}-shm in the folder {folder}: give {_user()} write permission for the file and the folder"
            )
    return f"check that {path} and its folder {folder} can be read and written"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
