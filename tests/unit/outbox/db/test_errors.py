"""Driver errors are classified by code, never by a message that several conditions share."""

import psycopg
import pytest
from psycopg import errors

from outbox.db.engine import sqlite
from outbox.db.errors import CONNECTION_FAULTS, Fault, classify


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("08006", Fault.CONNECTION),
        ("08P01", Fault.CONNECTION),
        ("57P01", Fault.CONNECTION),
        ("57P02", Fault.CONNECTION),
        ("57P03", Fault.CONNECTION),
        ("57P05", Fault.CONNECTION),
        ("25P03", Fault.CONNECTION),
        ("25006", Fault.READ_ONLY),
        ("42P01", Fault.SCHEMA),
        ("42703", Fault.SCHEMA),
        ("3F000", Fault.SCHEMA),
        ("42501", Fault.NOT_ALLOWED),
        ("3D000", Fault.UNAVAILABLE),
        ("28P01", Fault.UNAVAILABLE),
        ("28000", Fault.UNAVAILABLE),
        ("42601", Fault.UNAVAILABLE),
        ("42883", Fault.UNAVAILABLE),
        ("53100", Fault.UNAVAILABLE),
        ("53300", Fault.UNAVAILABLE),
        ("57014", Fault.UNAVAILABLE),
        ("40P01", Fault.UNAVAILABLE),
        ("55P03", Fault.UNAVAILABLE),
        ("22P05", Fault.ROW),
        ("22001", Fault.ROW),
        ("23514", Fault.ROW),
        ("23505", Fault.UNAVAILABLE),
        ("2200H", Fault.UNAVAILABLE),
    ],
)
def test_postgresql_errors_are_classified_by_sqlstate(sqlstate: str, fault: Fault) -> None:
    """Whatever the message is."""
    error = errors.lookup(sqlstate)('relation "outbox" does not exist')
    assert classify(error) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), Fault.ROW),
        (psycopg.OperationalError('connection failed: FATAL:  database "x" does not exist'), Fault.UNAVAILABLE),
        (psycopg.OperationalError('connection failed: FATAL:  role "x" does not exist'), Fault.UNAVAILABLE),
        (psycopg.ProgrammingError('invalid connection option "sslmod"'), Fault.UNAVAILABLE),
        (sqlite.OperationalError("no such table: outbox"), Fault.SCHEMA),
        (sqlite.OperationalError("no such column: nonce"), Fault.SCHEMA),
        (sqlite.IntegrityError("CHECK constraint failed"), Fault.ROW),
        (sqlite.OperationalError("database is locked"), Fault.UNAVAILABLE),
        (None, Fault.UNAVAILABLE),
    ],
)
def test_errors_without_a_code_are_classified(error: BaseException | None, fault: Fault) -> None:
    """Errors that the client detects have none."""
    assert classify(error) is fault


@pytest.mark.parametrize(
    ("code", "condemned"),
    [(8, True), (1032, True), (10, True), (522, True), (11, True), (26, True), (5, False), (13, False), (14, False)],
)
def test_sqlite_errors_are_classified_by_result_code(code: int, *, condemned: bool) -> None:
    """Extended codes count as their primary one."""
    error = sqlite.OperationalError("a message that may change")
    error.sqlite_errorcode = code
    assert (classify(error) in CONNECTION_FAULTS) is condemned
